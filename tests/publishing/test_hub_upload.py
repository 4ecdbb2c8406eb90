"""Uploads by the real client to a fake Hub."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.fake_hub import TOKEN, FakeHub
from support.finished_run import finish, model_files, write_report
from support.publishing import prepare

from teenytinyllama.errors import Interrupted, UserError
from teenytinyllama.publishing import hub_upload, publisher
from teenytinyllama.publishing.repositories import HubFile, Revision


def test_an_upload_equals_the_plan(run_dir: Path, hub: FakeHub) -> None:
    plan = prepare(run_dir)
    publisher.send(plan, public=False, endpoint=hub.url)
    assert hub.private == {("model", "ana/pequeno"): True, ("model", "ana/pequeno-chat"): True,
                           ("dataset", "ana/pequeno-corpus"): True}  # fmt: skip
    for repository in plan:
        for revision in repository.revisions:
            held = hub.files(repository.kind, repository.id, revision.name)
            assert set(held) - {".gitattributes"} == {file.name for file in revision.files}
            for file in revision.files:
                sent = file.source if isinstance(file.source, bytes) else file.source.read_bytes()
                assert held[file.name] == sent
    first = next(c for c in hub.commits if c[0] == "ana/pequeno")
    assert {"README.md", ".teenytinyllama/pequeno.json"} <= set(first[2])


def test_a_second_upload_sends_nothing(run_dir: Path, hub: FakeHub) -> None:
    publisher.send(prepare(run_dir), public=False, endpoint=hub.url)
    commits, uploads = list(hub.commits), list(hub.uploads)
    publisher.send(prepare(run_dir), public=False, endpoint=hub.url)
    assert (hub.commits, hub.uploads) == (commits, uploads)


def test_only_changes_are_sent_and_stale_files_removed(run_dir: Path, hub: FakeHub) -> None:
    publisher.send(prepare(run_dir), public=False, endpoint=hub.url)
    hub.files("dataset", "ana/pequeno-corpus")["data/train-00009.jsonl.zst"] = b"old"
    hub.files("dataset", "ana/pequeno-corpus")["my-notes.md"] = b"notes"
    model_files(run_dir / "align/final", 301)
    finish(run_dir, "align", counts={"conversations_train": 7})
    write_report(run_dir)
    before = len(hub.uploads)
    publisher.send(prepare(run_dir), public=False, endpoint=hub.url)
    assert len(hub.uploads) == before + 1  # the chat model's weights
    held = hub.files("dataset", "ana/pequeno-corpus")
    assert "data/train-00009.jsonl.zst" not in held
    assert held["my-notes.md"] == b"notes"


def test_an_interrupted_upload_resumes(
    run_dir: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _seconds: None)
    hub.fail_uploads_after = 3
    with pytest.raises(Interrupted, match="503"):
        publisher.send(prepare(run_dir), public=False, endpoint=hub.url)
    done = list(hub.uploads)
    assert len(done) == 3
    hub.fail_uploads_after = None
    publisher.send(prepare(run_dir), public=False, endpoint=hub.url)
    assert hub.uploads[:3] == done
    assert len(set(hub.uploads)) == len(hub.uploads)  # nothing twice
    assert "model.safetensors" in hub.files("model", "ana/pequeno-chat")


def upload_error(run_dir: Path, hub: FakeHub, code: str) -> str:
    with pytest.raises(UserError) as error:
        publisher.send(prepare(run_dir), public=False, endpoint=hub.url)
    assert error.value.code == code, error.value
    assert "\n" not in str(error.value)
    assert TOKEN not in str(error.value)
    return str(error.value)


def test_a_missing_token_is_an_error(
    run_dir: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(run_dir / "no-token"))
    assert "hf auth login" in upload_error(run_dir, hub, "hub-token")


def test_a_wrong_token_is_an_error(
    run_dir: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)
    assert "401" in upload_error(run_dir, hub, "hub-token")


def test_a_read_only_token_is_an_error(run_dir: Path, hub: FakeHub) -> None:
    hub.role = "read"
    assert "is read-only" in upload_error(run_dir, hub, "hub-permission")


def test_another_owner_is_an_error(run_dir: Path, hub: FakeHub) -> None:
    hub.user = "bia"
    assert "who may write under: bia" in upload_error(run_dir, hub, "hub-permission")
    assert hub.repos == {}


def test_a_403_is_an_error_of_permission(run_dir: Path, hub: FakeHub) -> None:
    hub.answer["POST /api/repos/create"] = (403, "Forbidden: pass a write token")
    assert "403" in upload_error(run_dir, hub, "hub-permission")


def test_a_repository_with_other_content_is_not_touched(run_dir: Path, hub: FakeHub) -> None:
    hub.seed("dataset", "ana/pequeno-corpus", **{"data/mine.parquet": b"x"})
    message = upload_error(run_dir, hub, "repo-not-ours")
    assert "ana/pequeno-corpus" in message
    assert ("model", "ana/pequeno") not in hub.repos  # checked before anything is created
    hub.seed("dataset", "ana/pequeno-corpus", **{".teenytinyllama/outro.json": b"{}"})
    assert "another run" in upload_error(run_dir, hub, "repo-not-ours")
    hub.seed("dataset", "ana/pequeno-corpus", **{"README.md": b"made by hand"})
    publisher.send(prepare(run_dir), public=False, endpoint=hub.url)


def test_a_hub_that_is_down_interrupts(
    run_dir: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = prepare(run_dir)
    with pytest.raises(Interrupted, match="cannot be reached"):
        publisher.send(plan, public=False, endpoint="http://127.0.0.1:9")
    hub.answer["GET /api/whoami-v2"] = (429, "Too many requests")
    with pytest.raises(Interrupted, match="429"):
        publisher.send(plan, public=False, endpoint=hub.url)


def test_commits_start_with_the_marker_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_upload, "MAX_FILES_PER_COMMIT", 2)
    weights = tuple(HubFile(f"w{number}", Path(__file__)) for number in range(5))
    revision = Revision("main", (*weights, HubFile("README.md", b"card"), HubFile("mark", b"{}")))
    batches = [[file.name for file in batch] for batch in hub_upload._batches(revision)]
    assert batches == [["README.md", "mark"], ["w0", "w1"], ["w2", "w3"], ["w4"]]
