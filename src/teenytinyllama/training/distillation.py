"""An ensemble of models as one, and the loss of a student that learns from it.

The ensemble's probability of a token is the mean of its members'. It is computed on the fly, with
the logits of a whole micro-batch in memory: nothing is stored.
"""

# B micro-batch, T tokens of a row, V vocabulary

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from teenytinyllama.modeling.causal_attention import causal_states
from teenytinyllama.training.losses import IGNORED, NextTokenLoss


class Ensemble(nn.Module):
    """Models of one vocabulary that answer together; its logits are log-probabilities."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.eval().requires_grad_(False)

    def forward(
        self, input_ids: Tensor, position_ids: Tensor | None = None, use_cache: bool = False
    ) -> SimpleNamespace:
        """`logits` (B, T, V), as a causal model of transformers gives them."""
        total: Tensor | None = None
        member: Any
        for member in self.members:
            embedded = member.model.embed_tokens(input_ids)  # (B, T, H)
            logits = member.lm_head(causal_states(member.model, embedded, position_ids))
            one = torch.log_softmax(logits.float(), dim=-1)
            total = one if total is None else torch.logaddexp(total, one)
        assert total is not None
        return SimpleNamespace(logits=total - math.log(len(self.members)))


class DistillationLoss(NextTokenLoss):
    """`teacher_weight` of the cross-entropy against a teacher's probabilities, the rest the text's.

    The teacher reads what the student reads. It is neither trained nor saved with it.
    """

    def __init__(
        self,
        model: Any,
        teacher: Ensemble,
        *,
        teacher_weight: float,
        z_loss: float = 0.0,
        second_token_weight: float = 0.0,
    ) -> None:
        super().__init__(model, z_loss=z_loss, second_token_weight=second_token_weight)
        self._teacher = (teacher,)  # in a tuple: no part of this module
        self._teacher_weight = teacher_weight

    @override
    def forward(
        self, input_ids: Tensor, labels: Tensor, position_ids: Tensor | None = None
    ) -> Tensor:
        hidden = self.hidden_states(input_ids, position_ids)  # (B, T, H)
        of_text = self.head_loss(hidden, labels, z_loss=self.z_loss)
        with torch.no_grad():
            teacher = self._teacher[0].to(input_ids.device)
            expected = teacher(input_ids, position_ids=position_ids).logits.exp()  # (B, T, V)
        found = torch.log_softmax(self.model.lm_head(hidden).float(), dim=-1)  # (B, T, V)
        counted = (labels != IGNORED)[..., None]
        of_teacher = -(expected * found * counted).sum()
        both = torch.lerp(of_text.to(of_teacher), of_teacher, self._teacher_weight)
        return both + self.auxiliary(hidden, labels)
