"""Two processes on a CPU (gloo) train what one trains, and resume each other's checkpoints."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.ranks import in_ranks
from support.tiny_training import TinyTask, loop_of, loss_log, settings
from support.two_processes import FSDP2, train
from yaml import safe_load

from teenytinyllama.artifacts.manifest import sha256_file
from teenytinyllama.settings.training import CheckpointSettings
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


@pytest.mark.parametrize("task", [{}, {"kind": "qwen3", "second_token_weight": 0.3}], ids=str)
def test_fsdp_trains_what_one_process_trains_and_resumes_it(tmp_path, task):
    """With one micro-batch, several, and two processes; Muon needs whole matrices."""
    alone, mixed, whole = tmp_path / "alone", tmp_path / "mixed", tmp_path / "whole"
    train(alone, micro_batch=4, task=task)
    train(mixed, stop_after=3, task=task)
    launch(
        {"folder": mixed, "strategy": "FSDPStrategy", "stop_after": 7, "task": task},
        {"folder": whole, "strategy": "FSDPStrategy", "micro_batch": 2, "task": task},
        **FSDP2,
    )
    train(mixed, task=task)
    # Sums in another order: single precision keeps seven digits.
    same_losses(alone, mixed)
    same_losses(alone, whole)
    one, other = (checkpoints.load_newest(folder) for folder in (alone, whole))
    assert one.model.keys() == other.model.keys()
    assert one.optimizer.keys() == other.optimizer.keys()
    for name, tensor in one.model.items():
        assert torch.allclose(tensor, other.model[name], atol=1e-5), name


def test_processes_come_and_go_with_an_automatic_micro_batch(tmp_path):
    """One, two, four and one again: nobody has to say what fits on how many."""
    alone, mixed = tmp_path / "alone", tmp_path / "mixed"
    train(alone, micro_batch=0)

    def until(step):
        return lambda rank: train(mixed, micro_batch=0, stop_after=step)

    for count, step in ((1, 3), (2, 5), (4, 8), (1, 10)):
        assert in_ranks(count, until(step)) == count * [None]
    same_losses(alone, mixed)


@pytest.mark.parametrize("variables", [{}, FSDP2], ids=["DDP", "FSDP2"])
def test_only_the_main_process_gets_the_tensors_of_a_checkpoint(variables, tmp_path):
    def work(rank):
        loop = loop_of(tmp_path)
        model, optimizer = loop.strategy.tensors()
        loop._train_step()
        after, moments = loop.strategy.tensors()
        return [len(found) for found in (model, optimizer, after, moments)]

    first, second = in_ranks(2, work, **variables)
    assert all(first[:1] + first[2:])
    assert second == [0, 0, 0, 0]


def test_gradients_have_no_second_copy():
    def work(rank):
        return loop_of(Path("unused")).strategy.loss.gradient_as_bucket_view

    assert in_ranks(2, work) == [True, True]


def test_a_signal_to_one_rank_saves_the_very_step_on_all(tmp_path):
    """Long before the next line of the log: a launcher waits 30 s."""

    class Signalled(TinyTask):
        def micro_batch(self, step, rows):
            if step == 3 and os.environ["RANK"] == "1":
                os.kill(os.getpid(), signal.SIGTERM)
            return super().micro_batch(step, rows)

    def work(rank):
        plan = settings(log_every_steps=1000, checkpoints=CheckpointSettings(every_minutes=1000))
        loop_of(tmp_path, task=Signalled(), plan=plan).run()

    first, second = in_ranks(2, work)
    assert "a signal to another process after step 4." in str(first)
    assert "SIGTERM after step 4." in str(second)
    assert [step for step, _ in checkpoints.list_checkpoints(tmp_path)] == [4]


def test_ranks_that_would_train_other_things_do_not_start(tmp_path):
    def with_other_data(rank):
        loop_of(tmp_path / "both", task=TinyTask(identity={"data": f"of rank {rank}"})).run()

    for error in in_ranks(2, with_other_data):
        assert error.code == "ranks-differ"
        assert error.where == "rank 1 of 2"
        assert "data: of rank 1 there, of rank 0 on rank 0" in error.what


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
