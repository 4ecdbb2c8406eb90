from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from teenytinyllama.training.cpu.kernels import BLOCKED, COMPILED
from teenytinyllama.training.cpu.layers import use_cpu_layers
from teenytinyllama.training.losses import NextTokenLoss

PRECISIONS = [(torch.float32, 2e-6), (torch.bfloat16, 0.08)]
needs_compiler = pytest.mark.usefixtures("compiler")


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


def small_qwen3() -> Qwen3ForCausalLM:
    sizes = small_llama().config.to_dict()
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    names += ("num_attention_heads", "num_key_value_heads", "initializer_range", "head_dim")
    return Qwen3ForCausalLM(Qwen3Config(**{name: sizes[name] for name in names})).train()


def replaced(model: LlamaForCausalLM) -> set[str]:
    """Kinds of modules that got another forward pass."""
    return {type(module).__name__ for module in model.modules() if "forward" in vars(module)}


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
def test_loss_and_gradients_equal_transformers(
    dtype: torch.dtype,
    most: float,
    num_key_value_heads: int,
    checkpointing: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Rows of 32 and 96 numbers, seven to a block: blocks that end inside the micro-batch.
    monkeypatch.setattr("teenytinyllama.training.cpu.kernels.BLOCK_BYTES", 7 * 4 * 96)
    model = small_llama(num_key_value_heads=num_key_value_heads)
    fast = copy.deepcopy(model)
    use_cpu_layers(fast, BLOCKED)
    assert replaced(fast) == {"Linear", "LlamaRMSNorm", "LlamaMLP", "LlamaAttention"}
    if checkpointing:
        fast.gradient_checkpointing_enable({"use_reentrant": False})
    check_against(model, fast, dtype, most)


@pytest.mark.parametrize("dtype, most", PRECISIONS)
def test_loss_and_gradients_of_a_qwen3_equal_transformers(dtype: torch.dtype, most: float) -> None:
    model = small_qwen3()
    fast = copy.deepcopy(model)
    use_cpu_layers(fast, BLOCKED)
    assert replaced(fast) == {"Linear", "Qwen3RMSNorm", "Qwen3MLP"}
    check_against(model, fast, dtype, most)


def check_against(
    model: LlamaForCausalLM, fast: LlamaForCausalLM, dtype: torch.dtype, most: float
) -> None:
    exact_loss, exact = gradients(model, torch.float32)
    loss, found = gradients(fast, dtype)
    assert abs(loss - exact_loss) <= most * exact_loss
    assert (found - exact).norm() <= most * exact.norm()
    if dtype == torch.bfloat16:  # rounded no worse than transformers' own
        _, theirs = gradients(model, dtype)
        assert (found - exact).norm() <= 1.1 * (theirs - exact).norm()


@needs_compiler
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("dtype, most", PRECISIONS)
def test_compiled_kernels_give_the_same_gradients(
    dtype: torch.dtype, most: float, checkpointing: bool
) -> None:
    model = small_llama()
    fast = copy.deepcopy(model)
    use_cpu_layers(fast, COMPILED)
    if checkpointing:
        fast.gradient_checkpointing_enable({"use_reentrant": False})
    check_against(model, fast, dtype, most)


def test_inputs_that_are_not_contiguous() -> None:
    model = small_llama()
    fast = copy.deepcopy(model)
    use_cpu_layers(fast, BLOCKED)
    hidden = torch.randn(5, 2, 32)
    for name in ("input_layernorm", "mlp"):
        found = []
        for one in (model, fast):
            turned = hidden.clone().requires_grad_()
            getattr(one.model.layers[0], name)(turned.transpose(0, 1)).sin().sum().backward()
            found.append(turned.grad)
        assert torch.allclose(*found, atol=1e-5)


def test_texts_of_a_row_stay_isolated() -> None:
    model = small_llama()
    fast = copy.deepcopy(model)
    use_cpu_layers(fast, BLOCKED)
    ids = torch.randint(0, 64, (2, 12), generator=torch.Generator().manual_seed(1))
    places = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6]] * 2)
    found = []
    for one in (model, fast):
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


def test_keeps_half_as_much_for_the_backward_pass() -> None:
    model = small_llama(hidden_size=64, intermediate_size=256, num_hidden_layers=6)
    before = kept_bytes(model)
    use_cpu_layers(model, BLOCKED)
    assert kept_bytes(model) < 0.52 * before


def test_without_gradients_transformers_own_forward_runs() -> None:
    model = small_llama()
    ids = torch.randint(0, 64, (2, 9))
    with torch.no_grad():
        before = model(input_ids=ids).logits
        use_cpu_layers(model, BLOCKED)
        assert torch.equal(model(input_ids=ids).logits, before)


def test_saved_model_loads_as_a_plain_llama(tmp_path) -> None:
    model = small_llama()
    names = list(model.state_dict())
    use_cpu_layers(model, BLOCKED)
    assert list(model.state_dict()) == names
    model.save_pretrained(tmp_path)
    again = LlamaForCausalLM.from_pretrained(tmp_path)
    assert type(again.model.layers[0].mlp).__name__ == "LlamaMLP"
    pairs = zip(model.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_lora_projections_still_train() -> None:
    model = small_llama()
    get_peft_model(model, LoraConfig(target_modules=["up_proj", "q_proj"], init_lora_weights=False))
    ids = torch.randint(0, 64, (2, 9))
    expected = model(input_ids=ids, use_cache=False).logits
    use_cpu_layers(model, BLOCKED)
    found = model(input_ids=ids, use_cache=False).logits
    assert torch.allclose(found, expected, atol=1e-5)
    found.sum().backward()
    wrapped = model.model.layers[0].mlp.up_proj
    assert wrapped.lora_B["default"].weight.grad.abs().sum() > 0
    assert "LlamaMLP" not in replaced(model)


def test_frozen_weights_get_no_gradient_but_pass_it_on() -> None:
    model = small_llama()
    layer = model.model.layers[1]
    layer.mlp.requires_grad_(False)
    for frozen in (layer.self_attn.o_proj, layer.self_attn.k_proj):
        frozen.requires_grad_(False)
    fast = copy.deepcopy(model)
    use_cpu_layers(fast, BLOCKED)
    ids = torch.randint(0, 64, (2, 9))
    for one in (model, fast):
        NextTokenLoss(one)(ids[:, :-1], ids[:, 1:]).backward()
    for (name, theirs), ours in zip(model.named_parameters(), fast.parameters(), strict=True):
        assert (theirs.grad is None) == (ours.grad is None), name
        if theirs.grad is not None:
            assert torch.allclose(theirs.grad, ours.grad, atol=1e-4), name


def test_biases_and_other_activations_are_left_alone() -> None:
    model = small_llama(mlp_bias=True, attention_bias=True, hidden_act="gelu")
    use_cpu_layers(model, BLOCKED)
    assert replaced(model) == {"LlamaRMSNorm"}


def test_attention_with_dropout_is_left_alone() -> None:
    model = small_llama(attention_dropout=0.1)
    use_cpu_layers(model, BLOCKED)
    assert replaced(model) == {"Linear", "LlamaRMSNorm", "LlamaMLP"}


def test_a_copy_of_a_model_runs_its_own_weights() -> None:
    model = small_llama()
    use_cpu_layers(model, BLOCKED)
    clone = copy.deepcopy(model)
    gradients(clone, torch.float32)
    assert all(parameter.grad is None for parameter in model.parameters())
