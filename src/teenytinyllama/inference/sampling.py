"""Choosing the next token: temperature, top-k, top-p, min-p and repetition penalty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from teenytinyllama.errors import UserError

# Logits divided by less can leave what fp32 holds; the most likely token is then as good as sure.
MIN_TEMPERATURE = 1e-5


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. The defaults are greedy decoding.

    Raises UserError for a value out of its range.
    """

    temperature: float = 0.0
    """Divides the logits; 0, and below MIN_TEMPERATURE, takes the most likely token, whatever else
    is set."""
    top_k: int = 0
    """Keep only the k most likely tokens; 0: all."""
    top_p: float = 1.0
    """Keep only the most likely tokens that together reach this probability."""
    min_p: float = 0.0
    """Keep only tokens at least this fraction as likely as the most likely one."""
    repetition_penalty: float = 1.0
    """Makes tokens of the prompt and the text so far less likely by this factor, 0.01 to 100;
    1: off."""
    seed: int = 0
    """Equal seeds give equal text."""

    def __post_init__(self) -> None:
        for name, fits, expected in (
            ("temperature", 0 <= self.temperature <= 100, "0 to 100"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0, at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "0 to 1"),
            ("repetition_penalty", 0.01 <= self.repetition_penalty <= 100, "0.01 to 100"),
            ("seed", 0 <= self.seed < 2**63, "0 to 2**63 - 1"),
        ):
            if not fits:
                what = f"got {getattr(self, name)}, expected {expected}"
                raise UserError("sampling-value", name, what, f"set {name} to {expected}")

    @property
    def is_greedy(self) -> bool:
        """Whether nothing is drawn."""
        return self.temperature < MIN_TEMPERATURE

    @property
    def is_plain_greedy(self) -> bool:
        """Whether the next token is always the most likely one."""
        return self.is_greedy and self.repetition_penalty == 1


GREEDY = Sampling()


class Sampler:
    """Draws one conversation's tokens from a random stream of its own."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int]) -> None:
        self.sampling = sampling
        self._generator = torch.Generator().manual_seed(sampling.seed)
        self._seen = set(prompt) if sampling.repetition_penalty != 1 else set()

    def sample(self, logits: Tensor) -> int:
        """The next token by its logits (V,)."""
        penalty = self.sampling.repetition_penalty
        if self._seen:
            logits = penalize(logits, sorted(self._seen), penalty)
        if self.sampling.is_greedy:
            token = int(logits.argmax())
        else:
            probabilities = next_token_probabilities(logits, self.sampling)
            token = int(torch.multinomial(probabilities.cpu(), 1, generator=self._generator))
        if penalty != 1:
            self._seen.add(token)
        return token


def penalize(logits: Tensor, seen: list[int], penalty: float) -> Tensor:
    """Repetition penalty of the logits (V,): positive ones divided, negative ones multiplied.

    Keskar et al. 2019 (CTRL), section 4.1.
    """
    ids = torch.tensor(seen, device=logits.device)
    score = logits[ids]
    return logits.index_copy(0, ids, torch.where(score < 0, score * penalty, score / penalty))


def next_token_probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """Probabilities (V,) after temperature, top-k, top-p and min-p, in this order."""
    logits = logits / sampling.temperature
    if 0 < sampling.top_k < len(logits):
        logits = logits.masked_fill(logits < logits.topk(sampling.top_k).values[-1], -torch.inf)
    if sampling.top_p < 1:
        sizes, order = logits.sort(descending=True)
        drops = sizes.softmax(-1).cumsum(-1).roll(1) >= sampling.top_p
        drops[0] = False  # the most likely token always stays
        dropped = torch.zeros_like(drops).index_put((order,), drops)
        logits = logits.masked_fill(dropped, -torch.inf)
    probabilities = logits.softmax(-1)
    if sampling.min_p > 0:
        least = sampling.min_p * probabilities.max()
        probabilities = torch.where(probabilities < least, 0.0, probabilities)
    return probabilities
