"""A smaller quick start through the command line: every stage, skipped, killed and resumed."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from teenytinyllama.artifacts.manifest import sha256_file
from teenytinyllama.pipeline.registry import STAGES
from teenytinyllama.pipeline.run_folder import UNFINISHED

RECIPE = Path(__file__).parents[1] / "recipes" / "quickstart.toml"
SMALLER = (
    "corpus.sources=[{ kind = 'storybook', num_documents = 600, license = 'Apache-2.0' }]",
    "tokenizer.vocab_size=600",
    "pretrain.num_steps=60",
    "pretrain.tokens_per_step=1024",
    "pretrain.sequence_length=128",
    "pretrain.evaluate_every_steps=30",
    "pretrain.sample_every_steps=30",
    "pretrain.checkpoints.every_steps=5",
    "pretrain.model={ hidden_size = 64, intermediate_size = 160, num_hidden_layers = 2, "
    "num_attention_heads = 2, max_position_embeddings = 256 }",
    "evaluate.tasks=[{ name = 'perguntas', kind = 'storybook', num_items = 12 }]",
    "finetune.tasks=[{ name = 'sentimento', kind = 'storybook', num_items = 64 }]",
    "finetune.num_epochs=1",
    "align.sources=[{ kind = 'storybook', num_documents = 60, license = 'Apache-2.0' }]",
    "align.num_epochs=1",
    "align.sequence_length=128",
    "align.tokens_per_step=512",
    "align.num_questions=4",
    "align.max_answer_tokens=8",
    "quantize.max_sample_tokens=512",
    # A model of sixty steps may lose anything.
    "quantize.max_bits_per_byte_increase=1.0",
)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def command(folder, *stages, changes=()):
    sets = [part for change in (*SMALLER, *changes) for part in ("--set", change)]
    run_dir = ["--run-dir", str(folder)]
    return [sys.executable, "-m", "teenytinyllama.cli", *stages, str(RECIPE), *run_dir, *sets]


def ttl(folder, *stages, changes=(), code=0):
    done = subprocess.run(
        command(folder, *stages, changes=changes), capture_output=True, text=True, env=ENVIRONMENT
    )
    assert done.returncode == code, done.stderr[-4000:]
    return done.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of all stages that nothing disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "quickstart"
    ttl(folder, "run")
    return folder


def manifest_of(folder, stage):
    return json.loads((folder / stage / "manifest.json").read_text(encoding="utf-8"))


def test_every_stage_leaves_its_manifest(finished):
    for stage in STAGES:
        manifest = manifest_of(finished, stage.name)
        assert manifest["stage"] == stage.name
        assert (finished / stage.name).is_dir()
        for name, output in manifest["outputs"].items():
            assert (finished / stage.name / name).stat().st_size == output["bytes"]


def test_counts_add_up(finished):
    counts = manifest_of(finished, "corpus")["counts"]
    for unit in ("documents", "bytes"):
        parts = [counts[f"{unit}_{p}"] for p in ("kept", "filtered", "duplicate", "quarantined")]
        assert counts[f"{unit}_read"] == sum(parts) > 0
    packed = manifest_of(finished, "pack")["counts"]
    assert packed["documents_train"] + packed["documents_heldout"] == counts["documents_kept"]


def test_it_learns_more_than_a_uniform_guess(finished):
    lines = (finished / "pretrain" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert losses[-1] < manifest_of(finished, "pretrain")["metrics"]["uniform_loss"] - 1
    assert manifest_of(finished, "evaluate")["metrics"]["heldout_bits_per_byte"] < 4


def test_plain_transformers_loads_what_was_made(finished):
    for stage in ("pretrain", "align"):
        folder = finished / stage / "final"
        model = AutoModelForCausalLM.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        messages = [{"role": "user", "content": "Onde mora a onça?"}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        assert ids[:2] == [1, 5]
        assert ids[-1] == 6
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits
        assert len(tokenizer) == 600
        assert logits.shape == (1, len(ids), 640)  # a multiple of 64


def test_the_examples_of_the_python_page_work(finished, capfd):
    page = (RECIPE.parents[1] / "docs" / "api.md").read_text(encoding="utf-8")
    talk, run = re.findall(r"```python\n(.*?)```", page, re.S)
    exec(talk.replace('"runs/quickstart"', repr(str(finished))), {})
    assert capfd.readouterr().out.strip()
    run = run.replace('"runs/quickstart"', repr(str(finished)))
    exec(run.replace("load_recipe(recipe_path)", f"load_recipe(recipe_path, {SMALLER!r})"), {})
    counts, text = capfd.readouterr().out.split("\n", 1)
    assert "'documents_read': 600" in counts
    assert text.strip()


def test_a_second_run_skips_everything(finished):
    started = time.perf_counter()
    said = ttl(finished, "run")
    assert said.count("unchanged, skipped") == len(STAGES)
    assert time.perf_counter() - started < 5


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished run, to change."""
    folder = tmp_path / "quickstart"
    shutil.copytree(finished, folder, symlinks=True)
    return folder


def test_one_changed_setting_runs_its_stage_and_the_later_ones(copied):
    said = ttl(copied, "run", changes=["pretrain.num_steps=10"])
    for stage in ("corpus", "tokenizer", "pack"):
        assert f"{stage}: unchanged, skipped" in said
    for stage in ("pretrain", "evaluate", "finetune", "align", "quantize", "report"):
        assert f"{stage}: done in" in said
    assert (copied / ".previous" / "pretrain" / "1" / "metrics.jsonl").is_file()


# What differs between two equal runs: times, rates, energy, and sizes of logs that hold them.
DIFFERS = re.compile(r"_(s|at|bytes)$|(^|_)(time|seconds|mfu|energy|emissions|joules|peak)(_|$)")
NUMBERS = re.compile(r"\d[\d.,]*")


def without_times(value):
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if not DIFFERS.search(k)}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def made_by(folder):
    """What a stage left, by file: a hash where bytes must be equal, else all but times."""
    made = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        # Hidden files, such as those a kill leaves half written, are in no manifest.
        if path.name in ("manifest.json", "state.json") or name.startswith(".") or "/." in name:
            continue
        if folder.name == "report":  # it shows times
            text = path.read_text(encoding="utf-8") if path.suffix == ".md" else ""
            made[name] = NUMBERS.sub("#", text)
        elif path.suffix == ".json":
            made[name] = without_times(json.loads(path.read_bytes()))
        elif path.suffix == ".jsonl":
            made[name] = [without_times(json.loads(line)) for line in path.open("rb")]
        else:
            made[name] = sha256_file(path)
    return made


def kill_at_work(folder, stage, seconds):
    """Start a stage, wait for its first file, and kill it `seconds` later.

    True where it was not done yet: its manifest is not there.
    """

    def files():
        found = {p: p.lstat().st_mtime_ns for p in (folder / stage.name).rglob("*")}
        # The runner writes the mark of unfinished work.
        return {p: time for p, time in found.items() if UNFINISHED not in p.name}

    before = files() if (folder / stage.name).is_dir() else {}
    process = subprocess.Popen(
        command(folder, stage.name), stderr=subprocess.DEVNULL, env=ENVIRONMENT
    )
    while process.poll() is None:
        try:
            if files() != before:
                break
        except FileNotFoundError:  # renamed meanwhile: it is at work
            break
        time.sleep(0.002)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return (
        process.returncode == -signal.SIGKILL
        and not (folder / stage.name / "manifest.json").exists()
    )


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES, ids=[stage.name for stage in STAGES])
def test_a_killed_stage_ends_in_the_same_bytes(finished, copied, stage):
    shutil.rmtree(copied / stage.name)
    duration_s = manifest_of(finished, stage.name)["duration_s"]
    hits = [kill_at_work(copied, stage, share * duration_s) for share in (0.001, 0.001, 0.2, 0.4)]
    assert any(hits), "no kill hit the stage"
    ttl(copied, "run")
    assert made_by(copied / stage.name) == made_by(finished / stage.name)
    before, after = manifest_of(finished, stage.name), manifest_of(copied, stage.name)
    assert without_times(after["counts"]) == without_times(before["counts"])
    assert set(after["outputs"]) == set(before["outputs"])


@pytest.mark.slow
def test_two_processes_run_all_stages_and_one_finds_them_done(copied):
    changes = ["pretrain.num_steps=6", "pretrain.micro_batch=4"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**ENVIRONMENT, "CUDA_VISIBLE_DEVICES": ""}

    def launch(stage):
        arguments = command(copied, stage, changes=changes)
        together = [sys.executable, *launcher, *arguments[1:]]
        return subprocess.run(
            together, capture_output=True, text=True, env=environment, timeout=300
        )

    for name in ("pretrain", "evaluate", "finetune", "align", "quantize", "report"):
        shutil.rmtree(copied / name)
    done = launch("run")
    assert done.returncode == 0, done.stderr[-4000:]
    for stage in STAGES:  # only the leader logs
        is_new = stage.name not in ("corpus", "tokenizer", "pack")
        assert done.stderr.count(f"{stage.name}: done in") == is_new
    for name in ("pretrain", "align"):
        assert manifest_of(copied, name)["metrics"]["num_devices"] == 2
    assert ttl(copied, "run", changes=changes).count("unchanged, skipped") == len(STAGES)


def last_line(folder, *stages, changes=()):
    lines = ttl(folder, *stages, changes=changes, code=2).strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_a_run_of_another_recipe_is_refused(finished):
    line = last_line(finished, "run", changes=["name=other"])
    assert line.startswith("error[run-of-other-recipe]")
    assert line.endswith("fix: --run-dir runs/other")


def test_unfinished_training_with_other_settings_is_kept(copied):
    (copied / "pretrain" / "manifest.json").unlink()
    unfinished = {"fingerprint": "x", "settings": {"num_steps": 60}}
    (copied / "pretrain" / ".unfinished.json").write_text(json.dumps(unfinished))
    changes = ["pretrain.num_steps=20", "pretrain.schedule.warmup_steps=2"]
    warning, line = ttl(copied, "pretrain", changes=changes, code=2).strip().splitlines()
    assert warning.startswith(f"{copied}/pretrain/manifest.json is damaged or missing;")
    assert "num_steps 60 -> 20" in line
    assert (copied / "pretrain" / "metrics.jsonl").is_file()


def test_a_failed_attempt_does_not_block_corrected_input(copied, tmp_path):
    good = "text,label\n" + "".join(f"dia {i},bom\nnoite {i},mau\n" for i in range(20))
    for split in ("validation", "test"):
        (tmp_path / f"{split}.csv").write_text(good)
    (tmp_path / "train.csv").write_text(good + "sem rótulo,\n")
    changes = [
        f"finetune.tasks=[{{name = 'dias', path = '{tmp_path}'}}]",
        "finetune.seeds=[0]",
        "finetune.num_epochs=1",
    ]
    assert "train.csv:42:label" in ttl(copied, "finetune", changes=changes, code=2)
    work = copied / ".previous" / "finetune" / "1" / "manifest.json"
    assert work.is_file()

    (tmp_path / "train.csv").write_text(good)
    assert "finetune: done in" in ttl(copied, "finetune", changes=changes)
    assert work.is_file(), "the failed attempt replaced the previous result"
