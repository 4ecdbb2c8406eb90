from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.graphs import Graphs, HostSyncs, allow_flex_backward
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from transformers import LlamaForCausalLM, Qwen3ForCausalLM

from teenytinyllama.modeling import causal_attention
from teenytinyllama.modeling.causal_attention import (
    BY_TEXT,
    FLEX,
    attention_kernels,
    causal_states,
    isolate_texts,
    kernel_name,
)

CPU = torch.device("cpu")
IDS = torch.arange(18).reshape(2, 9) % 50
POSITIONS = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 0, 0], [0, 1, 0, 1, 2, 3, 4, 5, 6]])
IS_TEXT = torch.ones_like(POSITIONS).bool()
IS_TEXT[0, 7:] = False  # padding


@pytest.fixture(autouse=True)
def flex_backward_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    allow_flex_backward(monkeypatch)


def model_of(num_kv_heads: int = 4, num_layers: int = 2, kind: Any = LlamaForCausalLM) -> Any:
    torch.manual_seed(0)
    config = kind.config_class(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=num_kv_heads,
        initializer_range=0.3,
    )
    return kind(config)


def explicit_mask(positions: Tensor | None) -> Tensor:
    """(B, 1, T, T), true where a token is seen, written without transformers."""
    length = IDS.shape[1]
    seen = torch.ones(length, length).tril().bool().expand(len(IDS), 1, -1, -1)
    if positions is None:
        return seen
    texts = (positions == 0).cumsum(-1)
    return seen & (texts[:, None, :, None] == texts[:, None, None, :])


def states(model: LlamaForCausalLM, positions: Tensor | None) -> Tensor:
    return causal_states(model.model, model.model.embed_tokens(IDS), positions)


def loss_and_gradients(model: LlamaForCausalLM, hidden: Tensor) -> list[Tensor]:
    model.zero_grad()
    loss = model.lm_head(hidden)[IS_TEXT].log_softmax(-1)[:, 7].sum()
    loss.backward()
    return [loss.detach(), *[p.grad.clone() for p in model.parameters()]]


@pytest.mark.parametrize("num_kv_heads", [1, 4])
@pytest.mark.parametrize("implementation", ["sdpa", BY_TEXT, FLEX])
@pytest.mark.parametrize("positions", [None, POSITIONS], ids=["plain", "isolated"])
def test_causal_loss_and_gradients_are_those_of_an_explicit_mask(
    implementation: str, num_kv_heads: int, positions: Tensor | None
) -> None:
    model = model_of(num_kv_heads)
    masked = model.model(
        input_ids=IDS, position_ids=positions, attention_mask=explicit_mask(positions)
    )
    expected = loss_and_gradients(model, masked.last_hidden_state)
    model.set_attn_implementation(implementation)
    found = loss_and_gradients(model, states(model, positions))
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got, wanted, atol=2e-5, rtol=2e-5)


def test_a_qwen3_attends_causally_too() -> None:
    model = model_of(kind=Qwen3ForCausalLM)
    plain = model.model(input_ids=IDS).last_hidden_state
    torch.testing.assert_close(states(model, None), plain, atol=2e-5, rtol=2e-5)
    model.set_attn_implementation(BY_TEXT)
    found = states(model, POSITIONS)
    masked = model.model(
        input_ids=IDS, position_ids=POSITIONS, attention_mask=explicit_mask(POSITIONS)
    ).last_hidden_state
    torch.testing.assert_close(found[IS_TEXT], masked[IS_TEXT], atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("implementation", [BY_TEXT, FLEX])
@pytest.mark.parametrize("kind", ["padded on the left", "cached", "isolated", "plain"])
def test_a_causal_flag_is_not_forced_where_transformers_needs_a_mask(
    implementation: str, kind: str
) -> None:
    """Held-out text, samples and benchmark items go through transformers in the same training."""
    model = model_of().eval()

    def logits() -> Tensor:
        if kind == "padded on the left":
            is_text = torch.ones_like(IDS)
            is_text[0, :4] = 0
            found = model(input_ids=IDS, attention_mask=is_text, use_cache=False).logits
            return found[is_text.bool()]
        if kind == "cached":
            stem = model(input_ids=IDS[:, :4], use_cache=True)
            return model(input_ids=IDS[:, 4:], past_key_values=stem.past_key_values).logits
        positions = POSITIONS if kind == "isolated" else None
        return model(input_ids=IDS, position_ids=positions, use_cache=False).logits

    with torch.no_grad():
        model.set_attn_implementation("eager")
        expected = logits()
        model.set_attn_implementation(implementation)
        torch.testing.assert_close(logits(), expected, atol=2e-5, rtol=2e-5)


def test_compiled_causal_attention_has_a_flag_and_no_mask() -> None:
    graphs, num_layers = Graphs(), 12
    torch.compiler.reset()
    model = model_of(num_layers=num_layers)
    compiled = torch.compile(causal_states, dynamic=False, backend=graphs)
    compiled(model.model, model.model.embed_tokens(IDS))
    attention = graphs.calls("scaled_dot_product_attention")
    assert (len(graphs), len(attention)) == (1, num_layers)
    for call in attention:
        assert call.kwargs["attn_mask"] is None
        assert call.kwargs["is_causal"] is True


def test_compiled_causal_attention_of_texts_is_by_blocks() -> None:
    graphs = Graphs()
    torch.compiler.reset()
    model = model_of()
    model.set_attn_implementation(FLEX)
    compiled = torch.compile(causal_states, dynamic=False, backend=graphs)
    out = compiled(model.model, model.model.embed_tokens(IDS), POSITIONS)
    torch.testing.assert_close(out, states(model, POSITIONS), atol=2e-5, rtol=2e-5)
    assert len(graphs) == 1
    assert len(graphs.calls("flex_attention")) == 2
    assert graphs.calls("scaled_dot_product_attention") == []


class Attention(TorchFunctionMode):
    """Records masks and causal flags of attention that runs eagerly."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[bool, bool]] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.nn.functional.scaled_dot_product_attention:
            self.calls.append((kwargs.get("attn_mask") is not None, kwargs["is_causal"]))
        return function(*args, **kwargs)


@pytest.mark.parametrize("positions", [None, POSITIONS], ids=["plain", "isolated"])
def test_eager_causal_attention_has_a_flag_and_no_mask(positions: Tensor | None) -> None:
    model = model_of()
    isolate_texts(model, CPU)
    with Attention() as attention:
        states(model, positions)
    assert set(attention.calls) == {(False, True)}


def test_causal_attention_has_no_host_sync() -> None:
    model = model_of()
    with HostSyncs() as syncs:
        states(model, None)
        causal_attention._block_mask(POSITIONS)
    assert syncs.lines == []


def test_kernels_for_texts_are_chosen_by_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    for capability, dropout, chosen in (
        ((8, 0), 0.0, FLEX),
        ((9, 0), 0.0, FLEX),
        ((7, 5), 0.0, "sdpa"),
        ((9, 0), 0.1, "sdpa"),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        model = model_of()
        for layer in model.model.layers:
            layer.self_attn.attention_dropout = dropout
        isolate_texts(model, gpu)
        assert model.config._attn_implementation == chosen
    isolate_texts(model, CPU)
    assert model.config._attn_implementation == BY_TEXT


@pytest.mark.parametrize("name", [BY_TEXT, FLEX])
def test_a_saved_model_does_not_name_the_kernel(name: str, tmp_path: Path) -> None:
    model = model_of()
    model.set_attn_implementation(name)
    model.config.save_pretrained(tmp_path)
    assert "ttl" not in (tmp_path / "config.json").read_text(encoding="utf-8")
    assert json.loads(model.config.to_json_string())["model_type"] == "llama"


def test_flex_attention_runs_compiled_where_the_layers_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(causal_attention, "_compiled_flex", lambda: "compiled")
    assert causal_attention._flex(torch.device("cuda")) == "compiled"
    assert causal_attention._flex(CPU) is causal_attention.flex_attention


def test_auto_prefers_cudnn_from_hopper_on(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    before = torch._C._get_sdp_priority_order()
    for capability, attention, first in (
        ((9, 0), "auto", SDPBackend.CUDNN_ATTENTION),
        ((8, 0), "auto", SDPBackend(before[0])),
        ((9, 0), "sdpa", SDPBackend(before[0])),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        with attention_kernels(gpu, attention):
            assert torch._C._get_sdp_priority_order()[0] == first.value
        assert torch._C._get_sdp_priority_order() == before


@pytest.mark.parametrize("name", ["sdpa", BY_TEXT, FLEX, "eager"])
def test_the_kernel_that_runs_is_named(name: str) -> None:
    model = model_of()
    model.set_attn_implementation(name)
    expected = {"sdpa": "flash", FLEX: "flex", BY_TEXT: "flash, one text at a time"}
    assert kernel_name(model, CPU, torch.float32, 16) == expected.get(name, name)
    with sdpa_kernel([SDPBackend.MATH]):
        assert kernel_name(model_of(), CPU, torch.float32, 16) == "math"
