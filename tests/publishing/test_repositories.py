"""The plan: repositories, branches and files, all verified against the manifests."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.finished_run import build, finish, write_report
from support.publishing import file_names, prepare, rejection

from teenytinyllama.artifacts.manifest import hash_outputs, read_manifest
from teenytinyllama.errors import UserError
from teenytinyllama.publishing.repositories import FinishedRun


def test_the_plan_has_models_checkpoints_and_documents(run_dir: Path) -> None:
    model, chat, data = prepare(run_dir)
    assert [r.id for r in (model, chat, data)] == [
        "ana/pequeno", "ana/pequeno-chat", "ana/pequeno-corpus"
    ]  # fmt: skip
    weights = {"config.json", "tokenizer_config.json", "tokenizer.model", "model.safetensors"}
    opening = {"README.md", "recipe.toml", ".teenytinyllama/pequeno.json"}
    opening |= {f"manifests/{r}.json" for r in
                ("corpus", "pretrain", "evaluate", "align", "quantize")}  # fmt: skip
    assert file_names(model) == weights | opening
    # Step 150 was kept only to resume; the optimizer state is not published.
    assert [r.name for r in model.revisions] == ["main", "step-0000100", "step-0000200"]
    assert file_names(model, "step-0000100") == weights | {"README.md"}
    assert file_names(chat) == weights | opening | {"gguf/pequeno-q8_0.gguf"}
    assert file_names(data) == opening | {
        "data/train-00000.jsonl.zst",
        "data/heldout-00000.jsonl.zst",
    }
    card = next(i for i in model.revisions[1].files if i.name == "README.md").source
    assert b"Step 100 of 200, 100,000 tokens seen, held-out text: 1.5000 bits per byte" in card


def test_checkpoints_can_include_the_optimizer(run_dir: Path) -> None:
    model = prepare(run_dir, with_optimizer=True)[0]
    more = {"optimizer.safetensors", "state.json", "manifest.json"}
    assert more <= file_names(model, "step-0000200")


def test_parts_that_a_run_lacks_are_not_planned(run_dir: Path) -> None:
    assert [r.id for r in prepare(run_dir, parts=("data",))] == ["ana/pequeno-corpus"]
    (run_dir / "align/manifest.json").unlink()
    finish(run_dir, "pretrain", counts={"steps": 200, "tokens": 1, "parameters": 4})
    write_report(run_dir)
    model, _ = prepare(run_dir)
    assert len(model.revisions) == 1
    assert "gguf/pequeno-q8_0.gguf" in file_names(model)  # of the base model, as there is no other


def test_unfinished_and_stale_runs_are_errors(run_dir: Path) -> None:
    assert "is not a repository name" in rejection(run_dir, "repo-name", to="pequeno")
    assert rejection(run_dir.parent, "run-missing")
    (run_dir / "align/manifest.json").unlink()
    assert "align changed since" in rejection(run_dir, "report-stale")
    write_report(run_dir)
    assert "align/manifest.json is missing" in rejection(run_dir, "run-unfinished", parts=("chat",))
    (run_dir / "report/manifest.json").unlink()
    assert "ttl report" in rejection(run_dir, "run-unfinished")


def test_a_file_that_differs_from_its_manifest_is_an_error(run_dir: Path) -> None:
    weights = run_dir / "pretrain/final/model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + b"\0")
    assert "has changed since its manifest" in rejection(run_dir, "file-changed")
    weights.unlink()
    weights.symlink_to(run_dir / "align/final/model.safetensors")
    assert "is a link" in rejection(run_dir, "file-changed")
    weights.unlink()
    assert "is missing" in rejection(run_dir, "file-changed")


def test_a_link_at_any_depth_of_the_run_is_refused(tmp_path: Path) -> None:
    run_dir = build(tmp_path / "run")
    manifest = read_manifest(run_dir / "pretrain")
    assert manifest is not None
    private = tmp_path / "private" / "b" / "c"
    private.mkdir(parents=True)
    (private / "letter.txt").write_text("o cofre fica no porão")
    (run_dir / "pretrain" / "final" / "a").symlink_to(tmp_path / "private")
    letter = "final/a/b/c/letter.txt"
    output = hash_outputs(private)["letter.txt"]
    run = FinishedRun(run_dir, "run", {"pretrain": manifest})
    run.stages["pretrain"].outputs[letter] = output
    with pytest.raises(UserError, match="is a link"):
        run.file("pretrain", letter)


def test_a_licence_without_derivatives_forbids_the_data_set(tmp_path: Path) -> None:
    run_dir = build(tmp_path / "run", license_name="CC-BY-NC-ND-4.0")
    message = rejection(run_dir, "license-clash")
    assert "may not be redistributed" in message
    assert prepare(run_dir, parts=("model",))[0].license == "CC-BY-NC-ND-4.0"


def test_published_manifests_have_no_personal_folders(run_dir: Path) -> None:
    recipe = {"sources": [{"license": "Apache-2.0", "path": "/home/maria/textos/*.txt"}]}
    counts = {"documents_read": 2, "documents_kept": 2, "licenses": {"Apache-2.0": 2}}
    finish(run_dir, "corpus", recipe=recipe, counts=counts)
    write_report(run_dir)
    plan = prepare(run_dir)
    for file in plan[0].revisions[0].files:
        data = file.source if isinstance(file.source, bytes) else file.source.read_bytes()
        assert b"maria" not in data
