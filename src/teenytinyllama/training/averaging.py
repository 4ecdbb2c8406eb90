"""Copies of the weights beside those that are trained, and the choice among them at the end.

    ema         exponential moving average of every step's weights
    step-700    the weights at the end of one of the last epochs; their averages are candidates
    best        the weights with the lowest held-out bits per byte of any evaluation

They are in every checkpoint, under names of their own beside the optimizer's moments, so that a
killed run ends with the same copies. Each is scored on held-out text when the training ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

PREFIX = "weights-"
"""Of the copies' names in a checkpoint: `weights-ema/model.layers.0...`"""

Weights = dict[str, Tensor]


def epoch_ends(rows_per_epoch: int, rows_per_step: int, num_steps: int) -> list[int]:
    """The steps after which an epoch is complete; the last one also if half an epoch was left.

    >>> epoch_ends(10, 4, 8)
    [3, 5, 8]
    >>> epoch_ends(10, 4, 9), epoch_ends(10, 4, 6)
    ([3, 5, 8, 9], [3, 5])
    """
    num_rows = num_steps * rows_per_step
    ends = [
        -(-k * rows_per_epoch // rows_per_step) for k in range(1, num_rows // rows_per_epoch + 1)
    ]
    if 2 * (num_rows % rows_per_epoch) >= rows_per_epoch and num_steps not in ends:
        ends.append(num_steps)
    return ends


def split_copies(tensors: Mapping[str, Tensor]) -> tuple[Weights, Weights]:
    """The optimizer's tensors of a checkpoint, and the copies in it."""
    copies = {name: tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
    return {n: t for n, t in tensors.items() if n not in copies}, copies


class WeightCopies:
    """The copies of one training."""

    def __init__(
        self,
        model: nn.Module,
        *,
        ema_decay: float,
        keeps_best: bool,
        kept_steps: Mapping[int, str],
    ) -> None:
        self._model, self._ema_decay, self._kept_steps = model, ema_decay, kept_steps
        self._keeps_best = keeps_best
        self._copies: dict[str, Weights] = {}

    @property
    def max_number(self) -> int:
        """Copies that the last checkpoint may hold."""
        return len(self._kept_steps) + self._keeps_best + bool(self._ema_decay)

    def _weights(self) -> Weights:
        return {name: p.detach() for name, p in self._model.named_parameters()}

    def _copy(self) -> Weights:
        """In fp32: a small step of an average is lost in bfloat16."""
        return {n: w.to(torch.float32, copy=True) for n, w in self._weights().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After every step: move the average, and keep the weights at the end of an epoch."""
        if self._ema_decay:
            if "ema" not in self._copies:
                self._copies["ema"] = self._copy()
            # At the beginning over fewer steps: the first weights are soon forgotten.
            decay = min(self._ema_decay, step / (step + 9))
            weights = {name: w.float() for name, w in self._weights().items()}
            average = [self._copies["ema"][name] for name in weights]
            torch._foreach_lerp_(average, list(weights.values()), 1 - decay)
        if step in self._kept_steps:
            self._copies[self._kept_steps[step]] = self._copy()

    def keep_best(self) -> None:
        """Keep the weights of now as the best so far."""
        self._copies["best"] = self._copy()

    def tensors(self) -> Weights:
        """All copies by name, for a checkpoint."""
        return {
            f"{PREFIX}{label}/{name}": weights
            for label, copy in self._copies.items()
            for name, weights in copy.items()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` gave; nothing at the start of a training."""
        devices = {name: w.device for name, w in self._weights().items()}
        self._copies = {}
        for full_name, tensor in tensors.items():
            label, _, name = full_name.removeprefix(PREFIX).partition("/")
            self._copies.setdefault(label, {})[name] = tensor.to(devices[name])

    def candidates(self) -> Iterator[tuple[str, Weights]]:
        """The weights to choose from, with words for each; those of the last step first."""
        yield "last step", self._copy()
        if "ema" in self._copies:
            yield f"average of {self._ema_decay:g} a step", self._copies["ema"]
        epochs = [self._copies[name] for name in self._kept_steps.values() if name in self._copies]
        for number in range(2, len(epochs) + 1):
            yield f"average of the last {number} epochs", _mean(epochs[-number:])
        if "best" in self._copies:
            yield "best evaluation", self._copies["best"]

    @torch.no_grad()
    def put(self, weights: Mapping[str, Tensor]) -> None:
        """Give the model these weights."""
        for name, parameter in self._model.named_parameters():
            parameter.copy_(weights[name])


def _mean(copies: list[Weights]) -> Weights:
    return {name: torch.stack([copy[name] for copy in copies]).mean(0) for name in copies[0]}
