"""A warm-up that a training never leaves."""

import pytest

from teenytinyllama.errors import UserError
from teenytinyllama.settings.training import ScheduleSettings
from teenytinyllama.training.schedule_check import check_epochs, check_training, check_warmup


def test_only_a_warm_up_as_long_as_the_training_is_reported():
    for warmup, steps, reported in ((0, 1, False), (5, 5, True), (4, 5, False), (1000, 5, True)):
        found = list(check_warmup("align", ScheduleSettings(warmup_steps=warmup), steps))
        assert [one.code for one in found] == ["warmup-too-long"] * reported


def test_epochs_that_no_machine_finishes_are_an_error():
    for epochs, steps, codes in (
        (3, 10**10, []),
        (101, 500, ["epochs-many"]),
        (3, 10**10 + 1, ["epochs-without-end"]),
    ):
        assert [one.code for one in check_epochs("align", epochs, steps)] == codes


def test_a_stage_says_what_is_doubtful_before_it_starts(capsys):
    schedule = ScheduleSettings(warmup_steps=1000)
    setting = "warmup_steps"
    check_training("finetune", schedule, num_epochs=3, num_steps=5, setting=setting)
    assert "--set finetune.warmup_steps=0" in capsys.readouterr().err
    check_training("align", ScheduleSettings(warmup_steps=1), num_epochs=3, num_steps=5)
    assert capsys.readouterr().err == ""
    with pytest.raises(UserError, match="epochs-without-end"):
        check_training("align", schedule, num_epochs=10**12, num_steps=10**12)
