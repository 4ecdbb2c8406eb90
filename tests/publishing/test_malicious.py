"""Every malicious artifact of figure F19 is rejected or harmless."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.malicious import TRIALS, run_trial


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.__name__)
def test_it_is_rejected_or_harmless(trial: Callable[[Path], str], tmp_path: Path) -> None:
    folder = tmp_path / "trial"
    folder.mkdir()
    assert run_trial(trial, folder)
