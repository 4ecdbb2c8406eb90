"""Two processes on a CPU (gloo) train what one trains, and resume each other's checkpoints."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.tiny_training import loss_log
from support.two_processes import FSDP2, train
from yaml import safe_load

from teenytinyllama.artifacts.manifest import sha256_file
from teenytinyllama.training import checkpoints

SCRIPT = Path(__file__).parents[1] / "support" / "two_processes.py"
ACCELERATE = Path(__file__).parents[2] / "recipes" / "accelerate"
LAST = checkpoints.folder_name(10)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def launch(*plans, python=sys.executable, timeout=300, **variables):
    """Run the plans one after another in two processes; returns their standard error."""
    command = [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    plans = [{**plan, "folder": str(plan["folder"])} for plan in plans]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **variables}
    done = subprocess.run(
        [*command, str(SCRIPT), json.dumps(plans)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def same_losses(one, other, rel=1e-5):
    first, second = loss_log(one), loss_log(other)
    assert [row[0] for row in first] == [row[0] for row in second]
    for a, b in zip(first, second, strict=True):
        assert a[1:] == pytest.approx(b[1:], rel=rel)


def test_one_and_two_processes_give_the_same_bits(tmp_path):
    alone, mixed = tmp_path / "alone", tmp_path / "mixed"
    train(alone, gradient_shards=2)
    train(mixed, gradient_shards=2, stop_after=3)
    launch({"folder": mixed, "gradient_shards": 2, "stop_after": 6})
    train(mixed, gradient_shards=2)
    last = LAST + "/model.safetensors"
    assert sha256_file(alone / last) == sha256_file(mixed / last)
    assert loss_log(mixed)[-1] == loss_log(alone)[-1]


def test_fsdp_trains_what_one_process_trains_and_resumes_it(tmp_path):
    """With one micro-batch, several, and two processes; Muon needs whole matrices."""
    alone, mixed, whole = tmp_path / "alone", tmp_path / "mixed", tmp_path / "whole"
    train(alone, micro_batch=4)
    train(mixed, stop_after=3)
    launch(
        {"folder": mixed, "strategy": "FSDPStrategy", "stop_after": 7},
        {"folder": whole, "strategy": "FSDPStrategy", "micro_batch": 2},
        **FSDP2,
    )
    train(mixed)
    # Sums in another order: single precision keeps seven digits.
    same_losses(alone, mixed)
    same_losses(alone, whole)
    one, other = (checkpoints.load_newest(folder) for folder in (alone, whole))
    assert one.model.keys() == other.model.keys()
    assert one.optimizer.keys() == other.optimizer.keys()
    for name, tensor in one.model.items():
        assert torch.allclose(tensor, other.model[name], atol=1e-5), name


@pytest.mark.slow
def test_fsdp_in_every_precision_recomputed_compiled_and_poisoned(tmp_path):
    plans = {
        "adamw": {"optimizer": "adamw"},
        "mixed": {"precision": "bf16-mixed"},
        "recomputed": {"activation_checkpointing": True},
        "compiled": {"compile": True},
        "poisoned": {"poison": 4},
        "poisoned adamw": {"poison": 4, "optimizer": "adamw"},
    }
    launch(
        *({"folder": tmp_path / n, "strategy": "FSDPStrategy", **p} for n, p in plans.items()),
        timeout=900,
        **FSDP2,
    )
    for name, plan in plans.items():
        alone = tmp_path / f"{name} alone"
        train(alone, **{**plan, "compile": False})
        # bfloat16 keeps 8 bits: a sum in another order moves the loss's third digit at most.
        same_losses(alone, tmp_path / name, rel=2e-3 if name == "mixed" else 1e-4)


@pytest.mark.slow
def test_ddp_and_fsdp_resume_each_other_s_checkpoints(tmp_path):
    alone, mixed = tmp_path / "alone", tmp_path / "mixed"
    train(alone, optimizer="adamw")
    launch({"folder": mixed, "optimizer": "adamw", "stop_after": 3})
    sharded = {"strategy": "FSDPStrategy", "stop_after": 6}
    launch({"folder": mixed, "optimizer": "adamw", **sharded}, **FSDP2)
    launch({"folder": mixed, "optimizer": "adamw", "stop_after": 8})
    train(mixed, optimizer="adamw")
    same_losses(alone, mixed)


@pytest.mark.slow
def test_deepspeed_trains_what_one_process_trains_and_resumes_it(tmp_path):
    """ZeRO 2 on a CPU, where DeepSpeed is installed; its first start compiles for minutes."""
    pytest.importorskip("deepspeed")
    plans = {
        "whole": {},
        "poisoned": {"poison": 4},
        "mixed": {"precision": "bf16-mixed"},
    }
    common = {"optimizer": "adamw"}
    taken_over = tmp_path / "taken over"
    train(taken_over, stop_after=2, **common)
    again = {"folder": taken_over, "strategy": "DeepSpeedStrategy", **common}
    launch(
        *(
            {"folder": tmp_path / n, "strategy": "DeepSpeedStrategy", **common, **p}
            for n, p in plans.items()
        ),
        {**again, "stop_after": 5},
        {**again, "stop_after": 8},
        timeout=900,
        ACCELERATE_USE_DEEPSPEED="true",
        DS_ACCELERATOR="cpu",
    )
    train(taken_over, **common)
    for name, plan in plans.items():
        alone = tmp_path / f"{name} alone"
        train(alone, **common, **plan)
        # Under autocast DeepSpeed adds gradients of matrices up in bfloat16.
        same_losses(alone, tmp_path / name, rel=1e-2 if name == "mixed" else 1e-5)
    same_losses(tmp_path / "whole alone", taken_over)


def test_accelerate_files_match_the_tested_settings():
    fsdp = safe_load((ACCELERATE / "fsdp2.yaml").read_text(encoding="utf-8"))["fsdp_config"]
    names = {"fsdp_reshard_after_forward": "FSDP_RESHARD_AFTER_FORWARD"}
    said = {names.get(name, name.upper()): str(value) for name, value in fsdp.items()}
    said["FSDP_TRANSFORMER_CLS_TO_WRAP"] = said.pop("FSDP_TRANSFORMER_LAYER_CLS_TO_WRAP")
    assert {k: v.lower() for k, v in said.items()} == {
        k: v.lower() for k, v in FSDP2.items() if k != "ACCELERATE_USE_FSDP"
    }
