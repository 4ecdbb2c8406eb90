"""What an auxiliary loss on the token after next needs, while a model trains and no longer.

The states that predict the next token, with a change of their own, predict the one after it, by the
same head (after Gloeckle et al., arXiv 2404.19737, who add whole layers). The change is a matrix of
zeros at first, so that no random number is drawn for it. It is a module of the model, trained and
averaged like the others, is kept in checkpoints beside the moments, and is not in the saved model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

MODULE = "second_token"
PREFIX = "auxiliary/"
"""Of its name in the optimizer's file of a checkpoint."""


def add_second_token(model: Any) -> None:
    """Let `model` predict the token after next. Before it is distributed."""
    size = model.config.hidden_size
    model.second_token = nn.Linear(size, size, bias=False)
    nn.init.zeros_(model.second_token.weight)


def remove_second_token(model: Any) -> None:
    """Make the model a plain one again, if it was not."""
    if hasattr(model, MODULE):
        delattr(model, MODULE)


def without_second_token(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights or moments of a plain model."""
    return {name: tensor for name, tensor in tensors.items() if MODULE not in name}


def hide_second_token(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights of a plain model, and the others with names for the optimizer's file."""
    plain = without_second_token(tensors)
    return plain, {PREFIX + name: tensors[name] for name in tensors if name not in plain}


def find_second_token(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What else is in the optimizer's file, and the weights hidden there by their names."""
    found = {n.removeprefix(PREFIX): t for n, t in tensors.items() if n.startswith(PREFIX)}
    return {n: t for n, t in tensors.items() if not n.startswith(PREFIX)}, found
