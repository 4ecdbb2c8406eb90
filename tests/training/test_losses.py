from functools import partial

import pytest
import torch
from support.graphs import HostSyncs, train_as_on_a_gpu
from support.tiny_training import LENGTH, SIZES, VOCAB_SIZE, TinyTask, data, loop_of, settings
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from teenytinyllama.modeling.initialization import build_model, llama_config
from teenytinyllama.training import losses
from teenytinyllama.training.losses import IGNORED, NextTokenLoss, linear_cross_entropy


def reference(hidden, weight, targets, z_loss=0.0):
    logits = hidden @ weight.T
    loss = functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
    counted = targets != IGNORED
    return loss + z_loss * torch.logsumexp(logits, -1)[counted].square().sum()


@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_loss_and_gradients_equal_plain_ones_over_several_chunks(z_loss, monkeypatch):
    monkeypatch.setattr(losses, "CHUNK_BYTES_CPU", 1)  # the smallest chunk: 128 rows
    monkeypatch.setattr(losses, "BLOCK_BYTES_CPU", 4 * 50 * 5)  # five rows
    torch.manual_seed(0)
    hidden = torch.randn(300, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(50, 8, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 50, (300,))
    targets[::7] = IGNORED
    expected = reference(hidden, weight, targets, z_loss)
    expected_gradients = torch.autograd.grad(expected * 3, (hidden, weight))
    found = linear_cross_entropy(hidden, weight, targets, z_loss=z_loss)
    found_gradients = torch.autograd.grad(found * 3, (hidden, weight))
    # The softmax is computed in fp32 whatever comes in.
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    for a, b in zip(found_gradients, expected_gradients, strict=True):
        assert (a - b).abs().max() < 1e-5


def test_rows_without_target_are_ignored():
    hidden, weight = torch.randn(4, 8, requires_grad=True), torch.randn(5, 8)
    loss = linear_cross_entropy(hidden, weight, torch.full((4,), IGNORED))
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad.abs().max() == 0


def test_autocast_multiplies_in_bfloat16_and_keeps_fp32_gradients():
    torch.manual_seed(0)
    hidden = torch.randn(64, 32, requires_grad=True)
    weight = torch.randn(100, 32, requires_grad=True)
    targets = torch.randint(0, 100, (64,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, targets)
    loss.backward()
    assert loss.dtype == weight.grad.dtype == hidden.grad.dtype == torch.float32
    # bfloat16 keeps 8 bits: products of 32 terms are right to about one part in a hundred.
    assert loss.item() == pytest.approx(reference(hidden, weight, targets).item(), rel=1e-2)


@pytest.mark.skipif(
    not hasattr(functional, "linear_cross_entropy"), reason="torch has it from 2.13 on"
)
def test_equals_torch_s_own_function():
    torch.manual_seed(0)
    hidden = torch.randn(40, 16, requires_grad=True)
    weight = torch.randn(30, 16, requires_grad=True)
    targets = torch.randint(0, 30, (40,))
    targets[3] = IGNORED
    theirs = functional.linear_cross_entropy(
        hidden, weight, targets, reduction="sum", ignore_index=IGNORED
    )
    ours = linear_cross_entropy(hidden, weight, targets)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    for a, b in zip(
        torch.autograd.grad(ours, (hidden, weight)),
        torch.autograd.grad(theirs, (hidden, weight)),
        strict=True,
    ):
        assert (a - b).abs().max() < 1e-5


class Largest(TorchDispatchMode):
    """Records the size of the largest output of any operation."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.numbers = max(self.numbers, out.numel())
        return out


def test_no_tensor_is_as_large_as_all_logits(monkeypatch):
    monkeypatch.setattr(losses, "CHUNK_BYTES_CPU", 1)
    hidden = torch.randn(1024, 8, requires_grad=True)
    weight = torch.randn(100, 8, requires_grad=True)
    with Largest() as largest:
        linear_cross_entropy(hidden, weight, torch.zeros(1024, dtype=torch.long)).backward()
    assert largest.numbers == 128 * 100  # a chunk; all logits are 1024 * 100


SHAPES = {
    "tied": {"tie_word_embeddings": True},
    "grouped queries": {"num_attention_heads": 4, "num_key_value_heads": 2},
    "deep and thin": {"num_hidden_layers": 12, "hidden_size": 16},
}


def tiny_model(**changes):
    shape = SIZES.model_copy(update=changes)
    config = llama_config(shape, VOCAB_SIZE, bos_id=1, eos_id=2, pad_id=3)
    return build_model(config, seed=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_loss_and_gradients_equal_transformers(shape):
    model = tiny_model(**SHAPES[shape])
    ids = torch.from_numpy(data()[:4, :LENGTH])
    theirs = model(input_ids=ids, labels=ids).loss * 4 * (LENGTH - 1)
    ours = NextTokenLoss(model)(ids[:, :-1], ids[:, 1:])
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    named = dict(model.named_parameters())
    their_gradients = torch.autograd.grad(theirs, list(named.values()))
    our_gradients = torch.autograd.grad(ours, list(named.values()))
    for name, a, b in zip(named, their_gradients, our_gradients, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5), name


def test_documents_of_a_row_do_not_attend_to_each_other():
    objective = NextTokenLoss(tiny_model())
    rows = torch.from_numpy(data()[:2, :8])
    apart = objective(rows[:, :-1], rows[:, 1:])
    together = rows[:, :-1].reshape(1, -1)
    targets = rows[:, 1:].reshape(1, -1)
    positions = torch.arange(7).repeat(2)[None]
    isolated = objective(together, targets, position_ids=positions)
    assert isolated.item() == pytest.approx(apart.item(), rel=1e-5)
    assert objective(together, targets).item() != pytest.approx(apart.item(), rel=1e-3)


def test_the_fused_softmax_equals_the_one_in_place():
    torch.manual_seed(0)
    logits, targets = torch.randn(12, 50), torch.randint(0, 50, (12,))
    targets[::5] = IGNORED
    for z_loss in (0.0, 1e-2):
        loss, gradient = losses._softmax_gradient(logits, targets, z_loss)
        expected, expected_gradient = losses._softmax_gradient_in_place(
            logits.clone(), targets, z_loss
        )
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
        assert (gradient - expected_gradient).abs().max() < 1e-6


def test_compile_false_reaches_the_softmax():
    gpu = torch.device("cuda")
    assert losses._softmax_gradient_on(gpu, fused=False) is losses._softmax_gradient
    assert losses._softmax_gradient_on(gpu, fused=True) is losses.fused_softmax_gradient()


def test_no_number_of_rows_makes_the_softmax_recompile(monkeypatch):
    """The supervised tokens of a step are another number each time."""
    graphs = train_as_on_a_gpu(monkeypatch)
    softmax_gradient = losses.fused_softmax_gradient()
    with torch._dynamo.config.patch(error_on_recompile=True):
        for num_rows in range(300, 500, 13):
            softmax_gradient(torch.randn(num_rows, 64), torch.randint(0, 64, (num_rows,)), 0.0)
    assert len(graphs) == 1


class Scored(TinyTask):
    """Reads held-out rows of every length, as an evaluation does."""

    def evaluate(self, model):
        assert torch.get_float32_matmul_precision() == "highest"
        for length in range(4, LENGTH):
            model(input_ids=torch.from_numpy(self.data[:2, :length]), use_cache=False)
        return {"heldout_bpb": 1.0}


def test_an_evaluation_does_not_make_the_training_step_recompile(tmp_path, monkeypatch):
    """Evaluations were compiled too: their many lengths used up what dynamo allows."""
    graphs, task = train_as_on_a_gpu(monkeypatch), Scored()
    plan = settings(num_steps=4, evaluate_every_steps=2)
    loop = loop_of(tmp_path, task=task, plan=plan)
    with torch._dynamo.config.patch(error_on_recompile=True):
        task.evaluate(task.model)  # as before a training that starts from another model
        loop.run()
    assert graphs.with_calls("scaled_dot_product_attention") == 1
    attention = graphs.calls("scaled_dot_product_attention")
    assert len(attention) == SIZES.num_hidden_layers
    assert all(call.kwargs["attn_mask"] is None for call in attention)
    assert all(call.kwargs["is_causal"] is True for call in attention)


@pytest.mark.parametrize("is_compiled", [True, False])
def test_a_training_step_has_no_host_sync(tmp_path, monkeypatch, is_compiled):
    train_as_on_a_gpu(monkeypatch)
    loop = loop_of(tmp_path, plan=settings(compile=is_compiled, precision="bf16-mixed"))
    loop.strategy._scale = partial(scale_on_a_gpu, loop.strategy)
    loop._train_step()  # optimizers make their state
    with HostSyncs() as syncs:
        loop._train_step()
    assert syncs.lines == []


def scale_on_a_gpu(strategy, norm):
    return (norm.float() / strategy._max_norm).clamp_min(1)
