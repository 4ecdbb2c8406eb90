import gc
import subprocess
import sys

from teenytinyllama.pipeline.loading import load_stage

LOAD_PRETRAIN = """
import sys
from teenytinyllama.pipeline.loading import load_stage
stage = load_stage("teenytinyllama.stages.pretrain.stage", loads_model=True)
print(stage.__name__, [name for name in ("sklearn", "scipy") if name in sys.modules])
import scipy
print(scipy.__name__)
"""


def test_a_stage_that_trains_brings_no_scipy_and_hides_none():
    done = subprocess.run(
        [sys.executable, "-c", LOAD_PRETRAIN], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["teenytinyllama.stages.pretrain.stage []", "scipy"]


def test_the_collector_rests_only_while_the_stage_is_loaded(tmp_path, monkeypatch):
    (tmp_path / "stage_of_a_test.py").write_text("import gc\ncollected = gc.isenabled()\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert not load_stage("stage_of_a_test", loads_model=False).collected
    assert gc.isenabled()
    gc.unfreeze()
