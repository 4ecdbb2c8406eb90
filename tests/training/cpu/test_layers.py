"""Lean layers compute what transformers' layers do, and keep less of it."""

from __future__ import annotations

import copy

import pytest
import torch
import torch._inductor.config as inductor
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from teenytinyllama.errors import UserError
from teenytinyllama.training.cpu import attention, kernels
from teenytinyllama.training.cpu.layers import (
    LeanAttention,
    LeanLinear,
    LeanMLP,
    LeanRMSNorm,
    use_lean_layers,
)
from teenytinyllama.training.losses import NextTokenLoss

PRECISIONS = [(torch.float32, 2e-6), (torch.bfloat16, 0.08)]
needs_compiler = pytest.mark.usefixtures("compiler")


@pytest.fixture
def compiler() -> None:
    reason = kernels._why_nothing_compiles()
    if reason:
        pytest.skip(reason)


def small_llama(**changes: object) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.3,
    }
    return LlamaForCausalLM(LlamaConfig(**{**sizes, **changes})).train()


def gradients(model: LlamaForCausalLM, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of three rows of 17 tokens, and all gradients in one vector."""
    ids = torch.randint(0, 64, (3, 17), generator=torch.Generator().manual_seed(1))
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = NextTokenLoss(model)(ids[:, :-1], ids[:, 1:])
    loss.backward()
    return loss.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("num_key_value_heads", [2, 4])
@pytest.mark.parametrize("dtype, most", PRECISIONS)
def test_loss_and_gradients_are_those_of_transformers(
    dtype: torch.dtype,
    most: float,
    num_key_value_heads: int,
    checkpointing: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Rows of 32 and 96 numbers, seven to a block: blocks that end inside the micro-batch.
    monkeypatch.setattr("teenytinyllama.training.cpu.kernels.BLOCK_BYTES", 7 * 4 * 96)
    model = small_llama(num_key_value_heads=num_key_value_heads)
    lean = copy.deepcopy(model)
    use_lean_layers(lean)
    assert isinstance(lean.model.layers[0].self_attn, LeanAttention)
    if checkpointing:
        lean.gradient_checkpointing_enable({"use_reentrant": False})
    check_against(model, lean, dtype, most)


def check_against(
    model: LlamaForCausalLM, lean: LlamaForCausalLM, dtype: torch.dtype, most: float
) -> None:
    exact_loss, exact = gradients(model, torch.float32)
    loss, found = gradients(lean, dtype)
    assert abs(loss - exact_loss) <= most * exact_loss
    assert (found - exact).norm() <= most * exact.norm()
    if dtype == torch.bfloat16:  # rounded no worse than transformers' own
        _, theirs = gradients(model, dtype)
        assert (found - exact).norm() <= 1.1 * (theirs - exact).norm()


@needs_compiler
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("dtype, most", PRECISIONS)
def test_compiled_passes_give_the_same(
    dtype: torch.dtype, most: float, checkpointing: bool
) -> None:
    model = small_llama()
    lean = copy.deepcopy(model)
    use_lean_layers(lean, kernels.COMPILED)
    if checkpointing:
        lean.gradient_checkpointing_enable({"use_reentrant": False})
    check_against(model, lean, dtype, most)


def test_rows_that_do_not_lie_one_after_the_other() -> None:
    model = small_llama()
    lean = copy.deepcopy(model)
    use_lean_layers(lean)
    hidden = torch.randn(5, 2, 32)
    for name in ("input_layernorm", "mlp"):
        found = []
        for one in (model, lean):
            turned = hidden.clone().requires_grad_()
            getattr(one.model.layers[0], name)(turned.transpose(0, 1)).sin().sum().backward()
            found.append(turned.grad)
        assert torch.allclose(*found, atol=1e-5)


def test_texts_of_a_row_stay_apart() -> None:
    model = small_llama()
    lean = copy.deepcopy(model)
    use_lean_layers(lean)
    ids = torch.randint(0, 64, (2, 12), generator=torch.Generator().manual_seed(1))
    places = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6]] * 2)
    found = []
    for one in (model, lean):
        NextTokenLoss(one)(ids, ids, places).backward()
        found.append(torch.cat([p.grad.flatten() for p in one.parameters()]))
    assert torch.allclose(*found, atol=1e-4)


def kept_bytes(model: LlamaForCausalLM) -> int:
    """Bytes that the backward pass of 512 tokens waits for, the weights not counted."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()

    ids = torch.zeros(1, 512, dtype=torch.long)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16),
    ):
        NextTokenLoss(model)(ids, ids)
    return sum(kept.values())


def test_half_is_kept() -> None:
    model = small_llama(hidden_size=64, intermediate_size=256, num_hidden_layers=6)
    before = kept_bytes(model)
    use_lean_layers(model)
    assert kept_bytes(model) < 0.52 * before


def test_without_gradients_nothing_changes() -> None:
    model = small_llama()
    ids = torch.randint(0, 64, (2, 9))
    with torch.no_grad():
        before = model(input_ids=ids).logits
        use_lean_layers(model)
        assert torch.equal(model(input_ids=ids).logits, before)


def test_names_and_the_saved_model_stay_the_same(tmp_path) -> None:
    model = small_llama()
    names = list(model.state_dict())
    use_lean_layers(model)
    assert list(model.state_dict()) == names
    model.save_pretrained(tmp_path)
    again = LlamaForCausalLM.from_pretrained(tmp_path)
    assert type(again.model.layers[0].mlp).__name__ == "LlamaMLP"
    pairs = zip(model.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_what_lora_has_wrapped_still_goes_through_it() -> None:
    model = small_llama()
    get_peft_model(model, LoraConfig(target_modules=["up_proj", "q_proj"], init_lora_weights=False))
    ids = torch.randint(0, 64, (2, 9))
    expected = model(input_ids=ids, use_cache=False).logits
    use_lean_layers(model)
    found = model(input_ids=ids, use_cache=False).logits
    assert torch.allclose(found, expected, atol=1e-5)
    found.sum().backward()
    wrapped = model.model.layers[0].mlp.up_proj
    assert wrapped.lora_B["default"].weight.grad.abs().sum() > 0
    assert not isinstance(model.model.layers[0].mlp, LeanMLP)


def test_frozen_weights_get_no_gradient_and_let_it_through() -> None:
    model = small_llama()
    layer = model.model.layers[1]
    layer.mlp.requires_grad_(False)
    for frozen in (layer.self_attn.o_proj, layer.self_attn.k_proj):
        frozen.requires_grad_(False)
    lean = copy.deepcopy(model)
    use_lean_layers(lean)
    ids = torch.randint(0, 64, (2, 9))
    for one in (model, lean):
        NextTokenLoss(one)(ids[:, :-1], ids[:, 1:]).backward()
    for (name, theirs), ours in zip(model.named_parameters(), lean.parameters(), strict=True):
        assert (theirs.grad is None) == (ours.grad is None), name
        if theirs.grad is not None:
            assert torch.allclose(theirs.grad, ours.grad, atol=1e-4), name


def test_biases_and_other_activations_are_left_alone() -> None:
    model = small_llama(mlp_bias=True, attention_bias=True, hidden_act="gelu")
    use_lean_layers(model)
    kinds = {type(module) for module in model.modules()}
    assert LeanRMSNorm in kinds
    assert not kinds & {LeanMLP, LeanLinear, LeanAttention}


def test_attention_that_drops_weights_is_left_alone() -> None:
    model = small_llama(attention_dropout=0.1)
    use_lean_layers(model)
    kinds = {type(module) for module in model.modules()}
    assert LeanLinear in kinds
    assert LeanAttention not in kinds


@needs_compiler
@pytest.mark.parametrize("length", [1, 37, 64])
def test_attention_by_products_of_whole_rows(length: int) -> None:
    random = torch.Generator().manual_seed(0)
    shape = (2, 3, length, 16)
    query, key, value, upstream = (
        torch.randn(shape, generator=random).to(torch.bfloat16) for _ in range(4)
    )
    mixed, partition = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, True, scale=0.3
    )
    state = (upstream, query, key, value, mixed, partition)
    precision = torch.backends.mkldnn.matmul.fp32_precision
    found = attention.attention_backward(state, 0.3)
    theirs = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        *state, 0.0, True, scale=0.3
    )
    wide = [tensor.float().requires_grad_() for tensor in (query, key, value)]
    scores = torch.nn.functional.scaled_dot_product_attention(*wide, is_causal=True, scale=0.3)
    exact = torch.autograd.grad(scores, wide, upstream.float())
    for ours, kernel, truth in zip(found, theirs, exact, strict=True):
        error = (ours.float() - truth).norm()
        assert error <= 1.1 * (kernel.float() - truth).norm() + 1e-6
        assert error <= 0.01 * truth.norm() + 1e-6
    assert torch.backends.mkldnn.matmul.fp32_precision == precision, "as it was for others"


def test_short_trainings_are_not_compiled() -> None:
    assert kernels.choose(None, flops=1e13) is kernels.IN_BLOCKS
    assert kernels.choose(False, flops=1e18) is kernels.IN_BLOCKS


@needs_compiler
def test_long_trainings_are_compiled() -> None:
    assert kernels.choose(None, flops=1e15) is kernels.COMPILED
    assert kernels.choose(True, flops=0) is kernels.COMPILED


def test_without_a_compiler(capsys: pytest.CaptureFixture[str]) -> None:
    kernels._why_nothing_compiles.cache_clear()
    try:
        with inductor.patch({"cpp.cxx": (None, "no-such-compiler")}):
            assert kernels.choose(None, flops=1e15) is kernels.IN_BLOCKS
            assert "not compiled, which costs" in capsys.readouterr().err
            with pytest.raises(UserError, match="no C\\+\\+ compiler"):
                kernels.choose(True, flops=0)
    finally:
        kernels._why_nothing_compiles.cache_clear()
