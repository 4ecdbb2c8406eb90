"""What a GPU would compile or wait for, seen on a CPU."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch.nn.attention import flex_attention
from torch.utils._python_dispatch import TorchDispatchMode

from teenytinyllama.modeling.causal_attention import FLEX
from teenytinyllama.training import cpu, launch, losses
from teenytinyllama.training.distributed import DDPStrategy

GPU = torch.device("cuda")


class Graphs(list[fx.GraphModule]):
    """A backend of `torch.compile` that runs each graph as it is, and keeps it."""

    def __call__(self, graph: fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        self.append(graph)
        return graph.forward

    def calls(self, name: str) -> list[fx.Node]:
        """All calls of a function or higher-order operator whose name holds `name`."""
        nodes = (node for graph in self for node in graph.graph.nodes)
        return [n for n in nodes if n.op == "call_function" and name in str(n.target)]

    def with_calls(self, name: str) -> int:
        """How many of the graphs have such a call."""
        return sum(bool(Graphs([graph]).calls(name)) for graph in self)


def allow_flex_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch has FlexAttention's backward pass for a CPU, uncompiled, and refuses it there."""
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *tensors: None)


def train_as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Graphs:
    """Let strategies and losses do on a CPU what they do on a GPU; returns what is compiled."""
    graphs, softmax_on = Graphs(), losses._softmax_gradient_on
    torch.compiler.reset()
    losses.fused_softmax_gradient.cache_clear()
    allow_flex_backward(monkeypatch)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=graphs))
    monkeypatch.setattr(DDPStrategy, "_compiles_modules", property(lambda self: self.compiled))
    monkeypatch.setattr(cpu, "prepare", lambda task, settings: None)
    monkeypatch.setattr(
        launch, "isolate_texts", lambda model, device: model.set_attn_implementation(FLEX)
    )
    monkeypatch.setattr(
        losses, "_softmax_gradient_on", lambda device, *, fused: softmax_on(GPU, fused=fused)
    )
    return graphs


class HostSyncs(TorchDispatchMode):
    """Records operations for which the host would wait for a GPU, with the line that asked."""

    supports_higher_order_operators = True
    WAITING = (
        torch.ops.aten._local_scalar_dense.default,
        torch.ops.aten.is_nonzero.default,
        torch.ops.aten.nonzero.default,
        torch.ops.aten.masked_select.default,
        torch.ops.aten.equal.default,
    )

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in self.WAITING:
            calls = traceback.extract_stack()
            places = ("teenytinyllama", "transformers")
            last = [call for call in calls if any(p in call.filename for p in places)][-1]
            self.lines.append(f"{function} at {last.filename}:{last.lineno}")
        return function(*args, **(kwargs or {}))
