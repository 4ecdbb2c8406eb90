"""What stages declare is what their `run` takes, and is cheap to read."""

import importlib
import inspect
import subprocess
import sys

import pytest

from teenytinyllama.pipeline.registry import STAGES


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_run_takes_the_folders_that_the_stage_declares(stage):
    module = importlib.import_module(stage.module)
    parameters = inspect.signature(module.run).parameters
    declared = {f"{name}_dir" for name in (*stage.reads, *stage.reads_if_there)}
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    named = {name for name, one in parameters.items() if one.kind is one.KEYWORD_ONLY}
    assert named >= {"settings", "context", "out_dir"}
    assert takes_any or named == {"settings", "context", "out_dir"} | declared


def test_stages_read_only_earlier_stages():
    earlier = set()
    for stage in STAGES:
        assert {*stage.reads, *stage.reads_if_there} <= earlier
        earlier.add(stage.name)


def test_a_declared_scorer_exists():
    [stage] = [one for one in STAGES if one.scorer_module]
    assert callable(importlib.import_module(stage.scorer_module).scorer)
    assert any(one.takes_scorer for one in STAGES)


def test_declarations_load_no_library():
    code = (
        "import sys; before = set(sys.modules)\n"
        "import teenytinyllama.pipeline.registry\n"
        "heavy = {'torch', 'pydantic', 'numpy'} & set(sys.modules)\n"
        "print(heavy, 'teenytinyllama.settings.recipe' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set() False\n"
