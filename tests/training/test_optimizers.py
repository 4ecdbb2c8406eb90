import pytest
import torch
from safetensors.torch import load_file
from support.tiny_training import VOCAB_SIZE, TinyTask

from teenytinyllama.settings.training import OptimizerSettings, ScheduleSettings
from teenytinyllama.training.checkpoints import write_tensors
from teenytinyllama.training.optimizers import (
    Muon,
    build_optimizers,
    is_hidden_matrix,
    learning_rate_factor,
    load_optimizer_tensors,
    optimizer_tensors,
    orthogonalize,
    set_learning_rates,
    step_if_finite,
)

ONE, ZERO = torch.tensor(1.0), torch.tensor(0.0)


def model_with_gradients(seed=0):
    model = TinyTask().model
    torch.manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    return model


def build(model, kind="muon", **changes):
    settings = OptimizerSettings(kind=kind, **changes)
    return build_optimizers(model, settings, compute_dtype=torch.float32)


def test_weight_decay_is_on_matrices_only():
    model = model_with_gradients()
    decayed = {
        id(p)
        for optimizer in build(model)
        for group in optimizer.param_groups
        if group["weight_decay"] > 0
        for p in group["params"]
    }
    for name, parameter in model.named_parameters():
        assert (id(parameter) in decayed) == ("norm" not in name), name


def test_muon_takes_hidden_matrices_and_adamw_the_rest():
    model = model_with_gradients()
    adamw, muon = build(model)
    names = {id(p): n for n, p in model.named_parameters()}
    in_muon = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    assert in_muon == {n for n in names.values() if "proj" in n}
    in_adamw = {names[id(p)] for group in adamw.param_groups for p in group["params"]}
    assert in_muon | in_adamw == set(names.values())
    assert not is_hidden_matrix("lm_head.weight", torch.zeros(VOCAB_SIZE, 32))


def test_orthogonalized_singular_values_are_near_one():
    torch.manual_seed(0)
    for shape in ((3, 32, 64), (2, 64, 32)):
        values = torch.linalg.svdvals(orthogonalize(torch.randn(shape), torch.float32))
        assert values.min() > 0.3
        assert values.max() < 1.3


def test_muon_equals_torch_s_over_several_steps():
    ours, theirs = model_with_gradients(), model_with_gradients()
    muon = build(ours, muon_learning_rate=0.02, weight_decay=0.1)[1]
    hidden = [p for n, p in theirs.named_parameters() if is_hidden_matrix(n, p)]
    library = torch.optim.Muon(hidden, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        muon.step()
        library.step()
    for (name, a), (_, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        # The library orthogonalises in bfloat16: about one part in a hundred of an update.
        assert (a - b).abs().max() < 2e-3, name


@pytest.mark.parametrize("kind", ["adamw", "muon", "adafactor"])
def test_a_flagged_step_changes_neither_weights_nor_moments(kind):
    model = model_with_gradients()
    optimizers = build(model, kind)
    step_if_finite(optimizers, ZERO)
    before = {n: p.clone() for n, p in model.named_parameters()}
    moments = {n: t.clone() for n, t in optimizer_tensors(model, optimizers).items()}
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    step_if_finite(optimizers, ONE)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name
    for name, tensor in optimizer_tensors(model, optimizers).items():
        assert torch.equal(tensor, moments[name]), name


@pytest.mark.parametrize("kind", ["adamw", "muon", "adafactor"])
def test_a_step_divides_its_gradients_by_the_scale(kind):
    ours, theirs = model_with_gradients(), model_with_gradients()
    for parameter in theirs.parameters():
        parameter.grad /= 7
    a, b = build(ours, kind), build(theirs, kind)
    step_if_finite(a, ZERO, torch.tensor(7.0))
    step_if_finite(b, ZERO)
    expected = optimizer_tensors(theirs, b)
    for name, tensor in optimizer_tensors(ours, a).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-7, msg=name)
    for (name, x), y in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(x, y, msg=name)


@pytest.mark.parametrize("kind", ["adamw", "muon", "adafactor"])
def test_state_goes_out_and_comes_back(kind):
    first, second = model_with_gradients(), model_with_gradients()
    a, b = build(first, kind), build(second, kind)
    step_if_finite(a, ZERO)
    second.load_state_dict(first.state_dict())
    saved = {name: tensor.clone() for name, tensor in optimizer_tensors(first, a).items()}
    load_optimizer_tensors(second, b, saved)
    for optimizers in (a, b):
        set_learning_rates(optimizers, 0.5)
        step_if_finite(optimizers, ZERO)
    for (name, x), (_, y) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        assert torch.equal(x, y), name


def test_eight_bit_moments_go_through_a_file(tmp_path):
    pytest.importorskip("bitsandbytes")

    def pair():
        torch.manual_seed(0)  # bitsandbytes keeps what is below 4,096 numbers in fp32
        model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.Linear(128, 64))
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        return model, build(model, "adamw-8bit")

    (first, a), (second, b) = pair(), pair()
    step_if_finite(a, ZERO)
    step_if_finite(a, ONE)
    write_tensors(tmp_path / "optimizer.safetensors", optimizer_tensors(first, a))
    saved = load_file(tmp_path / "optimizer.safetensors")
    assert saved["state1/1.weight"].dtype == torch.uint8
    second.load_state_dict(first.state_dict())
    load_optimizer_tensors(second, b, saved)
    for optimizers in (a, b):
        step_if_finite(optimizers, ZERO)
    for x, y in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(x, y)


def test_one_rate_drives_all_groups():
    optimizers = build(model_with_gradients(), peak_learning_rate=1e-3, muon_learning_rate=4e-3)
    set_learning_rates(optimizers, 0.25)
    rates = {group["lr"] for optimizer in optimizers for group in optimizer.param_groups}
    assert rates == {0.25e-3, 1e-3}
    assert isinstance(optimizers[1], Muon)


def decays_of(optimizers, model):
    names = {id(p): n for n, p in model.named_parameters()}
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    return {names[id(p)]: group["weight_decay"] for group in groups for p in group["params"]}


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_embedding_and_head_may_have_a_decay_of_their_own(kind):
    model = model_with_gradients()
    decays = decays_of(build(model, kind, weight_decay=1.0, embedding_weight_decay=0.2), model)
    for name, decay in decays.items():
        is_outer = "embed_tokens" in name or "lm_head" in name
        assert decay == (0.2 if is_outer else 0.0 if "norm" in name else 1.0), name


def test_decay_follows_the_rate_only_where_asked():
    model = model_with_gradients()
    for schedule, expected in (("constant", {0.0, 0.8}), ("learning-rate", {0.0, 0.2})):
        optimizers = build(model, weight_decay=0.8, weight_decay_schedule=schedule)
        set_learning_rates(optimizers, 1.0)
        set_learning_rates(optimizers, 0.25)
        assert set(decays_of(optimizers, model).values()) == expected


def test_a_decay_that_takes_more_than_the_weight_is_refused():
    OptimizerSettings(peak_learning_rate=1e-2, weight_decay=99.0)
    with pytest.raises(ValueError, match=r"takes 1 of a weight in a step; .* must be below 100"):
        OptimizerSettings(peak_learning_rate=1e-2, weight_decay=100.0)
    with pytest.raises(ValueError, match="embedding_weight_decay = 400 with peak_learning_rate"):
        OptimizerSettings(kind="muon", peak_learning_rate=1e-2, embedding_weight_decay=400.0)


def rates(plan, num_steps):
    return [learning_rate_factor(step, plan, num_steps) for step in range(num_steps)]


def test_linear_schedule():
    plan = ScheduleSettings(kind="linear", warmup_steps=2)
    assert rates(plan, 6) == pytest.approx([0.5, 1, 1, 0.75, 0.5, 0.25])


def test_cosine_schedule_ends_at_the_final_fraction():
    plan = ScheduleSettings(kind="cosine", warmup_steps=0, final_fraction=0.1)
    assert learning_rate_factor(0, plan, 100) == 1
    assert learning_rate_factor(50, plan, 100) == pytest.approx(0.55)
    assert learning_rate_factor(100, plan, 100) == pytest.approx(0.1)


def test_wsd_decay_starts_after_the_warmup():
    plan = ScheduleSettings(kind="wsd", warmup_steps=8, decay_fraction=1.0)
    assert rates(plan, 10) == pytest.approx([1 / 8 * n for n in range(1, 9)] + [1, 0.5])


def test_the_last_step_has_a_positive_rate():
    for kind in ("cosine", "linear", "wsd"):
        plan = ScheduleSettings(kind=kind, warmup_steps=1)
        assert rates(plan, 50)[-1] > 0
