import pytest

from teenytinyllama.settings.training import ScheduleSettings
from teenytinyllama.training.schedules import learning_rate_factor


def rates(plan, num_steps):
    return [learning_rate_factor(step, plan, num_steps) for step in range(num_steps)]


def test_linear_by_hand():
    plan = ScheduleSettings(kind="linear", warmup_steps=2)
    assert rates(plan, 6) == pytest.approx([0.5, 1, 1, 0.75, 0.5, 0.25])


def test_cosine_is_half_way_down_in_the_middle_and_ends_at_its_floor():
    plan = ScheduleSettings(kind="cosine", warmup_steps=0, final_fraction=0.1)
    assert learning_rate_factor(0, plan, 100) == 1
    assert learning_rate_factor(50, plan, 100) == pytest.approx(0.55)
    assert learning_rate_factor(100, plan, 100) == pytest.approx(0.1)


def test_wsd_never_falls_before_the_warm_up_is_over():
    plan = ScheduleSettings(kind="wsd", warmup_steps=8, decay_fraction=1.0)
    assert rates(plan, 10) == pytest.approx([1 / 8 * n for n in range(1, 9)] + [1, 0.5])


def test_the_last_step_still_moves():
    for kind in ("cosine", "linear", "wsd"):
        plan = ScheduleSettings(kind=kind, warmup_steps=1)
        assert rates(plan, 50)[-1] > 0
