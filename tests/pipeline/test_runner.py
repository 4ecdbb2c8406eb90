"""Which stages run, which are skipped and why, and what a run leaves behind."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.command_line import SMALL_RECIPE
from support.ranks import in_ranks

from teenytinyllama.artifacts import tokens
from teenytinyllama.artifacts.manifest import read_manifest
from teenytinyllama.energy import Energy
from teenytinyllama.errors import Interrupted, UserError
from teenytinyllama.pipeline import runner
from teenytinyllama.pipeline.runner import PipelineRunner, ProcessGroup
from teenytinyllama.settings.recipe import load_recipe
from teenytinyllama.stages.corpus import corpus_writer, staging
from teenytinyllama.stages.interface import StageResult
from teenytinyllama.stages.tokenizer import hf_export

ALL = "[tokenizer]\nvocab_size = 400\n[pack]\n[pretrain]\n[quantize]\n[report]\n"


class FakeStages:
    """Stages that write one file each; `ran` has the names of those that ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.given: dict[str, dict[str, Any]] = {}
        self.content = "same"

    def load(self, module: str, *, loads_model: bool) -> SimpleNamespace:
        name = module.split(".")[-2]

        def run(*, settings: Any, context: Any, out_dir: Path, **folders: Any) -> StageResult:
            self.ran.append(name)
            self.given[name] = folders
            (out_dir / "result.txt").write_text(self.content)
            return StageResult(counts={"files": 1}, metrics={})

        return SimpleNamespace(run=run)


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> FakeStages:
    fake = FakeStages()
    monkeypatch.setattr(runner, "load_stage", fake.load)
    return fake


@pytest.fixture
def recipe_path(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL_RECIPE + ALL)
    return path


def run(
    recipe: Path, *changes: str, names: Sequence[str] | None = None, redo: bool = False
) -> Path:
    run_dir = recipe.parent / "run"
    loaded = load_recipe(recipe, list(changes))
    PipelineRunner(loaded, run_dir, recipe).run_stages(names, redo=redo)
    return run_dir


def ran_again(stages: FakeStages, recipe: Path, *changes: str, **options: Any) -> list[str]:
    stages.ran.clear()
    run(recipe, *changes, **options)
    return stages.ran


def test_stages_run_in_order_with_their_folders(stages: FakeStages, recipe_path: Path) -> None:
    run_dir = run(recipe_path)
    assert stages.ran == ["corpus", "tokenizer", "pack", "pretrain", "quantize", "report"]
    assert stages.given["corpus"] == {}
    assert stages.given["pack"] == {
        "corpus_dir": run_dir / "corpus",
        "tokenizer_dir": run_dir / "tokenizer",
    }
    assert stages.given["quantize"]["align_dir"] is None
    assert stages.given["report"]["pretrain_dir"] == run_dir / "pretrain"


def test_unchanged_stages_are_skipped(stages: FakeStages, recipe_path: Path) -> None:
    run(recipe_path)
    assert ran_again(stages, recipe_path) == []
    assert ran_again(stages, recipe_path, names=["pack"], redo=True) == ["pack"]


def test_changed_setting_runs_its_stage_and_those_that_read_new_files(
    stages: FakeStages, recipe_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(recipe_path)
    # The same files again: only the report, which shows times, is out of date.
    assert ran_again(stages, recipe_path, "pack.seed=1") == ["pack", "report"]
    assert (
        "pack: settings changed (seed 0 -> 1); previous result moved to" in capsys.readouterr().err
    )
    stages.content = "other"
    assert ran_again(stages, recipe_path, "pack.seed=2") == [
        "pack",
        "pretrain",
        "quantize",
        "report",
    ]
    assert "pretrain: inputs changed (pack); previous result" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["corpus", "tokenizer", "pretrain"])
def test_stage_does_not_read_what_changed_since_it_was_written(
    stages: FakeStages, recipe_path: Path, name: str
) -> None:
    """Each of them is read by quantize; nothing that is there is moved away for it."""
    run_dir = run(recipe_path)
    (run_dir / name / "result.txt").write_text("emas")
    change = "quantize.max_sample_tokens=4000"
    with pytest.raises(UserError, match=rf"{name}/result.txt - changed since it was written"):
        ran_again(stages, recipe_path, change, names=["quantize"])
    assert stages.ran == []
    assert (run_dir / "quantize" / "manifest.json").is_file()
    (run_dir / name / "result.txt").write_text("same")
    assert ran_again(stages, recipe_path, change, names=["quantize"]) == ["quantize"]


def test_report_is_made_without_the_files_that_were_removed(
    stages: FakeStages, recipe_path: Path
) -> None:
    run_dir = run(recipe_path)
    (run_dir / "quantize" / "result.txt").unlink()
    assert ran_again(stages, recipe_path, names=["report"], redo=True) == ["report"]


def test_price_runs_the_report_only(stages: FakeStages, recipe_path: Path) -> None:
    run(recipe_path)
    assert ran_again(stages, recipe_path, "energy.usd_per_kwh=0.5") == ["report"]


def test_missing_file_runs_its_stage_again(
    stages: FakeStages, recipe_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = run(recipe_path)
    (run_dir / "pack" / "result.txt").unlink()
    assert ran_again(stages, recipe_path)[:1] == ["pack"]
    assert "pack: result.txt is missing or changed; running again" in capsys.readouterr().err


def test_going_back_takes_the_earlier_result_back(
    stages: FakeStages, recipe_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = run(recipe_path, names=["corpus", "tokenizer"])
    before = (run_dir / "tokenizer" / "manifest.json").read_bytes()
    stages.content = "other"
    only = {"names": ["tokenizer"]}
    assert ran_again(stages, recipe_path, "tokenizer.vocab_size=500", **only) == ["tokenizer"]
    assert ran_again(stages, recipe_path, **only) == []
    assert (run_dir / "tokenizer" / "manifest.json").read_bytes() == before
    assert f"in {run_dir}/.previous/tokenizer/1; taken back" in capsys.readouterr().err
    assert ran_again(stages, recipe_path, "tokenizer.vocab_size=500", **only) == []


def test_attempts_that_fail_never_delete_a_finished_result(
    stages: FakeStages, recipe_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = run(recipe_path, names=["corpus"])

    def fail(*, out_dir: Path, **given: Any) -> StageResult:
        (out_dir / "half").touch()
        raise UserError("corpus-empty", "corpus", "0 documents remain", "loosen corpus.filters")

    with monkeypatch.context() as patch:
        failing = SimpleNamespace(run=fail)
        patch.setattr(runner, "load_stage", lambda module, loads_model: failing)
        for number in range(6):
            with pytest.raises(UserError, match="corpus-empty"):
                run(recipe_path, f"corpus.min_document_bytes={number + 50}", names=["corpus"])
    assert ran_again(stages, recipe_path, names=["corpus"]) == []
    assert (run_dir / "corpus" / "result.txt").is_file()


def test_oldest_result_goes_with_a_line(
    stages: FakeStages, recipe_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = run(recipe_path, names=["corpus"])
    for _ in range(5):
        run(recipe_path, names=["corpus"], redo=True)
    assert sorted(path.name for path in (run_dir / ".previous/corpus").iterdir()) == ["3", "4", "5"]
    said = capsys.readouterr().err
    assert f"corpus: deleting result {run_dir}/.previous/corpus/2 (" in said
    assert "the 3 newest are kept (--keep-previous)" in said


@pytest.fixture
def from_files(recipe_path: Path) -> Path:
    """The text of the corpus is a file."""
    text = recipe_path.parent / "a.jsonl"
    text.write_text('{"text": "Era uma vez."}\n{"text": "Fim."}\n')
    recipe_path.write_text(
        f'name = "small"\n[corpus]\nsources = [{{ kind = "files", path = "{text}", '
        'license = "CC0-1.0" }]\n'
    )
    return text


def test_times_of_the_text_do_not_count_and_its_content_does(
    stages: FakeStages, recipe_path: Path, from_files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(recipe_path)
    os.utime(from_files, ns=(1, 1))
    assert ran_again(stages, recipe_path) == []
    from_files.write_text('{"text": "Era uma vex."}\n{"text": "Fim."}\n')
    os.utime(from_files, ns=(1, 1))
    assert ran_again(stages, recipe_path) == ["corpus"]
    assert "corpus: inputs changed (sources.0); previous result" in capsys.readouterr().err


def test_result_whose_text_is_gone_is_kept_and_never_set_aside(
    stages: FakeStages, recipe_path: Path, from_files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = run(recipe_path)
    from_files.unlink()
    assert ran_again(stages, recipe_path) == []
    assert (
        "corpus: the files of corpus.sources.0 are gone; its result is whole and is kept"
        in capsys.readouterr().err
    )
    with pytest.raises(UserError, match="source-empty"):
        run(recipe_path, "corpus.replace_personal_data=false", names=["corpus"])
    assert (run_dir / "corpus" / "manifest.json").is_file()


@pytest.mark.parametrize("content", ["", "{", "[]", "\0\0", None])
def test_damaged_manifest_is_made_again_from_the_work_that_is_there(
    stages: FakeStages, recipe_path: Path, content: str | None
) -> None:
    run_dir = run(recipe_path, names=["corpus", "tokenizer", "pack", "pretrain"])
    manifest = run_dir / "pretrain" / "manifest.json"
    (run_dir / "pretrain" / "step-0000001").mkdir()
    if content is None:
        manifest.unlink()
    else:
        manifest.write_text(content)
    assert ran_again(stages, recipe_path, names=["pretrain"]) == ["pretrain"]
    assert (run_dir / "pretrain" / "step-0000001").is_dir()
    assert read_manifest(run_dir / "pretrain") is not None


def test_cost_is_that_of_all_processes(
    stages: FakeStages, recipe_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = run(recipe_path, names=["corpus"])
    first = read_manifest(run_dir / "corpus")
    assert first is not None
    line = json.loads((run_dir / "corpus" / ".spending.jsonl").read_text())
    assert first.duration_s == line["seconds"]
    # A killed process left its line.
    (run_dir / "corpus" / "manifest.json").unlink()
    killed = {**line, "seconds": 1000.0, "cpu_modelled": 7.0, "emissions_kg": 0.5}
    (run_dir / "corpus" / ".spending.jsonl").write_text(json.dumps(killed) + "\n")
    run(recipe_path, names=["corpus"])
    again = read_manifest(run_dir / "corpus")
    assert again is not None
    assert again.duration_s > 1000
    assert again.energy_kwh["cpu_modelled"] >= 7
    assert again.emissions_kg >= 0.5


def test_energy_is_that_of_all_machines(stages: FakeStages, recipe_path: Path) -> None:
    """Four ranks on two machines, the first of each with a meter that both would count."""
    run(recipe_path, names=["corpus", "tokenizer", "pack"])

    def work(rank: int) -> None:
        os.environ["LOCAL_RANK"] = str(rank % 2)
        run_dir = recipe_path.parent / "run"
        one = PipelineRunner(load_recipe(recipe_path), run_dir, recipe_path)
        one.meter = Counting()  # type: ignore[assignment]
        one.run_stages(["pretrain"])

    assert in_ranks(4, work) == [None] * 4
    manifest = read_manifest(recipe_path.parent / "run" / "pretrain")
    assert manifest is not None
    assert manifest.energy_kwh["gpu_measured"] == 2.0


class Counting:
    """One kilowatt-hour between two readings."""

    def __init__(self) -> None:
        self.latest, self.on_reading = Energy(), None
        self.readings = 0

    def read(self) -> Energy:
        # The first is zero: a meter starts then.
        self.latest = Energy(gpu_measured=self.readings)
        self.readings += 1
        return self.latest

    def refresh(self) -> None:
        pass

    def stop(self) -> None:
        pass


def test_manifest_says_what_was_asked_read_and_made(stages: FakeStages, recipe_path: Path) -> None:
    run_dir = run(recipe_path)
    manifest = read_manifest(run_dir / "pack")
    assert manifest is not None
    assert manifest.stage == "pack"
    assert manifest.recipe["seed"] == 0
    assert {name: one.path for name, one in manifest.inputs.items()} == {
        "corpus": "corpus",
        "tokenizer": "tokenizer",
    }
    assert list(manifest.outputs) == ["result.txt"]
    assert manifest.counts == {"files": 1}
    assert set(manifest.energy_kwh) == {"gpu_measured", "cpu_modelled", "ram_modelled"}
    assert json.loads((run_dir / "run.json").read_bytes())["name"] == "small"


def test_stage_before_its_input_is_refused(stages: FakeStages, recipe_path: Path) -> None:
    with pytest.raises(UserError, match=r"stage-not-run.*reads corpus/manifest.json"):
        run(recipe_path, names=["pack"])
    with pytest.raises(UserError, match=r"stage-not-in-recipe.*\[align\]"):
        run(recipe_path, names=["align"])


def test_recipe_of_another_name_is_refused(stages: FakeStages, recipe_path: Path) -> None:
    run(recipe_path, names=["corpus"])
    with pytest.raises(UserError, match="run-of-other-recipe"):
        run(recipe_path, "name=other", names=["corpus"])


class Helper(ProcessGroup):
    """A helper whose leader answers from a list."""

    def __init__(self, answers: Sequence[bool]) -> None:
        super().__init__()
        self.rank = 1
        self._answers = iter(answers)

    def broadcast(self, value: Any) -> Any:
        return next(self._answers)

    def gather(self, value: Any) -> list[Any]:
        return [value]


def test_helper_joins_only_what_the_leader_runs(stages: FakeStages, recipe_path: Path) -> None:
    run_dir = run(recipe_path)
    before = (run_dir / "pretrain" / "manifest.json").read_bytes()
    stages.ran.clear()
    helper = PipelineRunner(load_recipe(recipe_path), run_dir, recipe_path)
    helper.processes = Helper([False, False, False, True, False, False])
    helper.run_stages()
    assert stages.ran == ["pretrain"]
    assert (run_dir / "pretrain" / "manifest.json").read_bytes() == before


def run_for_real(recipe: Path, run_dir: Path) -> None:
    PipelineRunner(load_recipe(recipe), run_dir, recipe).run_stages(["corpus", "tokenizer", "pack"])


def files_of(run_dir: Path) -> dict[str, str]:
    return {
        str(path.relative_to(run_dir)): hashlib.sha256(path.read_bytes()).hexdigest()
        for stage in ("corpus", "tokenizer", "pack")
        for path in sorted((run_dir / stage).rglob("*"))
        if path.is_file() and path.name not in ("manifest.json", ".spending.jsonl")
    }


def test_full_disk_stops_and_the_same_command_resumes(
    recipe_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_for_real(recipe_path, tmp_path / "undisturbed")
    expected = files_of(tmp_path / "undisturbed")
    run_dir = tmp_path / "full"

    def no_space(*given: Any, **named: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(run_dir / "some.file"))

    for owner, name in (
        (staging.StagingFile, "add"),
        (corpus_writer.CorpusWriter, "run"),
        (hf_export, "write_atomically"),
        (tokens.TokenWriter, "write"),
        (tokens, "write_atomically"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, no_space)
            with pytest.raises(Interrupted, match=r"no space left for .*some\.file") as caught:
                run_for_real(recipe_path, run_dir)
        assert caught.value.exit_code == 75
        assert files_of(run_dir) != expected
    run_for_real(recipe_path, run_dir)
    assert files_of(run_dir) == expected


def test_what_can_be_known_beforehand_stops_a_run_before_its_first_stage(
    tmp_path: Path, stages: FakeStages
) -> None:
    path = tmp_path / "small.toml"
    path.write_text(SMALL_RECIPE + '[tokenizer]\nvocab_size = 400\nmeasure_text = "none.txt"\n')
    with pytest.raises(UserError) as error:
        PipelineRunner(load_recipe(path), tmp_path / "run", path).run_stages()
    assert error.value.code == "measure-text"
    assert stages.ran == []
    # Only the stages that will run are checked: a finished one needs its files no more.
    text = tmp_path / "text.txt"
    text.write_text("Um sapo.")
    path.write_text(path.read_text().replace("none.txt", str(text)))
    recipe = load_recipe(path)
    PipelineRunner(recipe, tmp_path / "run", path).run_stages()
    text.unlink()
    PipelineRunner(recipe, tmp_path / "run", path).run_stages()
    assert stages.ran == ["corpus", "tokenizer"]
    with pytest.raises(UserError):
        PipelineRunner(recipe, tmp_path / "run", path).run_stages(redo=True)
    assert stages.ran == ["corpus", "tokenizer"]
