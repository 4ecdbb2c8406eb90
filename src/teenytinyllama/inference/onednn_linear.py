"""Linear layers on a CPU by oneDNN instead of MKL, for forward passes without gradients.

PyTorch multiplies fp32 matrices on a CPU with MKL, which packs the weights at every call. oneDNN
packs them once: on an AVX-512 core it is 1.1 times faster at 1,000 rows and 1.3 to 1.9 times at 16
(EXPERIMENTS.md). Results differ in the last bits only. `torch.compile` uses the same operators, but
would compile again for each of the many shapes of an evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

# Packed weights are a copy: those of larger models are not packed.
MAX_PACKED_BYTES = 4 * 2**30


@contextmanager
def faster_linear(model: torch.nn.Module) -> Iterator[None]:
    """Inside, oneDNN computes the linear layers of an fp32 model on the CPU.

    Nothing changes on a GPU, in another precision, or where PyTorch is built without oneDNN.
    """
    weights = [p for p in model.parameters() if p.dtype == torch.float32 and p.device.type == "cpu"]
    if not weights or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        yield
        return
    packs = sum(p.numel() * p.element_size() for p in weights) <= MAX_PACKED_BYTES
    with torch.inference_mode(), _OneDnnLinear(packs=packs):
        yield


class _OneDnnLinear(TorchFunctionMode):
    def __init__(self, *, packs: bool) -> None:
        super().__init__()
        self.packs = packs
        # By the weight's id; the weight is kept too, so that no other object gets this id.
        self._packed: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is functional.linear and not kwargs and _suits(*args):
            weight = self._weight(args[1])
            bias = args[2] if len(args) > 2 else None
            return torch.ops.mkldnn._linear_pointwise(args[0], weight, bias, "none", [], "")
        return func(*args, **(kwargs or {}))

    def _weight(self, weight: Tensor) -> Tensor:
        if not self.packs or not isinstance(weight, torch.nn.Parameter):
            return weight
        found = self._packed.get(id(weight))
        if found is None:
            found = self._packed[id(weight)] = (weight, _pack(weight.detach()))
        return found[1]


def _pack(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    return packed


def _suits(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether oneDNN takes these: fp32, dense, on the CPU, and not empty."""
    tensors = (inputs, weight) if bias is None else (inputs, weight, bias)
    return inputs.numel() > 0 and all(
        tensor.dtype == torch.float32 and tensor.device.type == "cpu" and tensor.is_contiguous()
        for tensor in tensors
    )
