"""A warm-up that a training never leaves."""

from teenytinyllama.settings.training import ScheduleSettings
from teenytinyllama.training.schedule_check import check_warmup


def test_only_a_warm_up_as_long_as_the_training_is_reported():
    for warmup, steps, reported in ((0, 1, False), (5, 5, True), (4, 5, False), (1000, 5, True)):
        found = list(check_warmup("align", ScheduleSettings(warmup_steps=warmup), steps))
        assert [one.code for one in found] == ["warmup-too-long"] * reported
