"""The factor of an fp16 loss that keeps small gradients from becoming 0.

fp16 has no number below 6e-8. The loss is multiplied before the backward pass, and gradients are
divided again where the optimizer reads them; a step whose gradients overflow changes nothing and
halves the factor. All of it stays on the device, as `torch.amp.GradScaler` does not.
"""

from __future__ import annotations

import torch
from torch import Tensor

FIRST_SCALE = 2.0**14
GROWTH_STEPS = 2000  # as torch.amp.GradScaler


class LossScale:
    """The factor now, and the steps since it last changed: scalars on the device."""

    def __init__(self, device: torch.device) -> None:
        self.scale = torch.full((), FIRST_SCALE, device=device)
        self._steps = torch.zeros((), device=device)

    def update(self, found_inf: Tensor) -> None:
        """Take in a step: `found_inf` is 1.0 where its gradients were not finite."""
        steps = torch.where(found_inf > 0, 0.0, self._steps + 1)
        grows = steps >= GROWTH_STEPS
        factor = torch.where(found_inf > 0, 0.5, torch.where(grows, 2.0, 1.0))
        self.scale = (self.scale * factor).clamp(1.0, 2.0**24)
        self._steps = torch.where(grows, 0.0, steps)

    def to_json(self) -> list[float]:
        """For a checkpoint; the host waits for the device."""
        return [float(self.scale), float(self._steps)]

    def load(self, saved: list[float]) -> None:
        """Restore what `to_json` gave; nothing where the checkpoint has none."""
        for tensor, value in zip((self.scale, self._steps), saved, strict=False):
            tensor.fill_(value)
