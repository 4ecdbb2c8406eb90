"""A disk that fills up while corpus, tokenizer or pack write: said, code 75, and gone on with."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path
from typing import Any

import pytest

from teenytinyllama.artifacts import tokens
from teenytinyllama.errors import Interrupted
from teenytinyllama.pipeline.runner import PipelineRunner
from teenytinyllama.settings.recipe import load_recipe
from teenytinyllama.stages.corpus import corpus_writer, staging
from teenytinyllama.stages.tokenizer import hf_export


def run(recipe: Path, run_dir: Path) -> None:
    PipelineRunner(load_recipe(recipe), run_dir, recipe).run_stages()


def files_of(run_dir: Path) -> dict[str, str]:
    return {
        str(path.relative_to(run_dir)): hashlib.sha256(path.read_bytes()).hexdigest()
        for stage in ("corpus", "tokenizer", "pack")
        for path in sorted((run_dir / stage).rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


def test_the_same_command_goes_on_when_there_is_space_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        'name = "r"\n[corpus]\nsources = [{ kind = "storybook", num_documents = 60, '
        'license = "CC0-1.0" }]\n[tokenizer]\nvocab_size = 400\n[pack]\n'
    )
    run(recipe, tmp_path / "calm")
    run_dir = tmp_path / "full"

    def no_space(*given: Any, **named: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(run_dir / "some.file"))

    for owner, name in (
        (staging.Spool, "add"),
        (corpus_writer.Closing, "run"),
        (hf_export, "write_atomically"),
        (tokens.TokenWriter, "write"),
        (tokens, "write_atomically"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, no_space)
            with pytest.raises(Interrupted, match=r"no space left for .*some\.file") as caught:
                run(recipe, run_dir)
        assert caught.value.exit_code == 75
        assert files_of(run_dir) != files_of(tmp_path / "calm")
    run(recipe, run_dir)
    assert files_of(run_dir) == files_of(tmp_path / "calm")
