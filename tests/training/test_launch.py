from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from support.tiny_training import TinyTask, settings
from support.two_processes import FSDP2

from teenytinyllama.errors import UserError
from teenytinyllama.settings.training import OptimizerSettings
from teenytinyllama.training import launch


@pytest.mark.parametrize(
    ("variables", "optimizer", "code"),
    [
        ({**FSDP2, "FSDP_VERSION": "1"}, "adamw", "fsdp-version"),
        (FSDP2, "adafactor", "optimizer-not-sharded"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "muon", "optimizer-not-sharded"),
        (
            {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"},
            "adamw",
            "zero-stage",
        ),
    ],
)
def test_unsupported_launcher_settings_are_refused(monkeypatch, variables, optimizer, code):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launch, "Accelerator", lambda **_: TwoOnPaper())
    plan = settings(optimizer=OptimizerSettings(kind=optimizer))
    with pytest.raises(UserError) as caught:
        launch.start_strategy(TinyTask(), plan)
    assert caught.value.code == code


class TwoOnPaper:
    """What a strategy reads from an Accelerator before processes communicate."""

    device, process_index, num_processes = torch.device("cpu"), 0, 2

    def __init__(self):
        self.state = SimpleNamespace(distributed_type=DistributedType.MULTI_CPU)
