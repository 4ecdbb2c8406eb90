"""Publishing: what would be sent, what is refused, and the real client against a Hub of our own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fake_hub import TOKEN, Hub, serving
from support.finished_run import build, finish, model_files, safetensors, write_report

from teenytinyllama.artifacts.manifest import hash_outputs
from teenytinyllama.errors import Interrupted, UserError
from teenytinyllama.publishing import publisher
from teenytinyllama.publishing.repositories import Repository

SECRET = "hf_" + "S" * 34


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return build(tmp_path / "run")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    # Large files over plain HTTP: the newer protocol is the Hub's own and speaks to its servers.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with serving() as hub:
        yield hub


def prepare(run_dir: Path, to: str = "ana/pequeno", **asked: object) -> list[Repository]:
    return publisher.prepare(publisher.Request(run_dir, to, **asked))  # type: ignore[arg-type]


def refused(run_dir: Path, code: str, **asked: object) -> str:
    with pytest.raises(UserError) as error:
        prepare(run_dir, **asked)  # type: ignore[arg-type]
    assert error.value.code == code, error.value
    assert "\n" not in str(error.value)
    return str(error.value)


def names(repository: Repository, revision: str = "main") -> set[str]:
    found = next(r for r in repository.revisions if r.name == revision)
    return {item.name for item in found.items}


def test_the_plan_holds_models_checkpoints_and_documents(run_dir: Path) -> None:
    model, chat, data = prepare(run_dir)
    assert [r.id for r in (model, chat, data)] == [
        "ana/pequeno", "ana/pequeno-chat", "ana/pequeno-corpus"
    ]  # fmt: skip
    weights = {"config.json", "tokenizer_config.json", "tokenizer.model", "model.safetensors"}
    opening = {"README.md", "recipe.toml", ".teenytinyllama/pequeno.json"}
    opening |= {f"manifests/{r}.json" for r in
                ("corpus", "pretrain", "evaluate", "align", "quantize")}  # fmt: skip
    assert names(model) == weights | opening
    # Step 150 was only kept to go on from; the optimizer's state stays here.
    assert [r.name for r in model.revisions] == ["main", "step-0000100", "step-0000200"]
    assert names(model, "step-0000100") == weights | {"README.md"}
    assert names(chat) == weights | opening | {"gguf/pequeno-q8_0.gguf"}
    assert names(data) == opening | {"data/train-00000.jsonl.zst", "data/heldout-00000.jsonl.zst"}
    card = next(i for i in model.revisions[1].items if i.name == "README.md").source
    assert b"Step 100 of 200, 100,000 tokens seen, held-out text: 1.5000 bits per byte" in card


def test_checkpoints_can_bring_their_optimizer(run_dir: Path) -> None:
    model = prepare(run_dir, with_optimizer=True)[0]
    more = {"optimizer.safetensors", "state.json", "manifest.json"}
    assert more <= names(model, "step-0000200")


def test_a_run_without_checkpoints_or_chat_has_less(run_dir: Path) -> None:
    assert [r.id for r in prepare(run_dir, parts=("data",))] == ["ana/pequeno-corpus"]
    (run_dir / "align/manifest.json").unlink()
    finish(run_dir, "pretrain", counts={"steps": 200, "tokens": 1, "parameters": 4})
    write_report(run_dir)
    model, _ = prepare(run_dir)
    assert len(model.revisions) == 1
    assert "gguf/pequeno-q8_0.gguf" in names(model)  # of the base model, as there is no other


def test_the_dry_run_names_every_file_and_sends_nothing(run_dir: Path, hub: Hub) -> None:
    words = publisher.describe(prepare(run_dir), public=False, as_json=False)
    for part in ("model ana/pequeno   licence Apache-2.0, private", "step-0000100", "README.md",
                 "the same files", "3 repositories, 5 revisions"):  # fmt: skip
        assert part in words
    told = json.loads(publisher.describe(prepare(run_dir), public=True, as_json=True))
    assert told[0]["visibility"] == "public"
    assert told[0]["revisions"][0]["files"]["model.safetensors"] == len(safetensors())
    assert hub.repos == {}


def test_an_upload_leaves_exactly_the_plan(run_dir: Path, hub: Hub) -> None:
    plan = prepare(run_dir)
    publisher.send(plan, public=False, endpoint=hub.url)
    assert hub.private == {("model", "ana/pequeno"): True, ("model", "ana/pequeno-chat"): True,
                           ("dataset", "ana/pequeno-corpus"): True}  # fmt: skip
    for repository in plan:
        for revision in repository.revisions:
            held = hub.files(repository.kind, repository.id, revision.name)
            assert set(held) - {".gitattributes"} == {item.name for item in revision.items}
            for item in revision.items:
                sent = item.source if isinstance(item.source, bytes) else item.source.read_bytes()
                assert held[item.name] == sent
    first = next(c for c in hub.commits if c[0] == "ana/pequeno")
    assert {"README.md", ".teenytinyllama/pequeno.json"} <= set(first[2])


def test_a_second_upload_sends_nothing(run_dir: Path, hub: Hub) -> None:
    publisher.send(prepare(run_dir), public=False, endpoint=hub.url)
    commits, uploads = list(hub.commits), list(hub.uploads)
    publisher.send(prepare(run_dir), public=False, endpoint=hub.url)
    assert (hub.commits, hub.uploads) == (commits, uploads)


def test_only_what_changed_is_sent_and_what_is_gone_is_removed(run_dir: Path, hub: Hub) -> None:
    publisher.send(prepare(run_dir), public=False, endpoint=hub.url)
    hub.files("dataset", "ana/pequeno-corpus")["data/train-00009.jsonl.zst"] = b"old"
    hub.files("dataset", "ana/pequeno-corpus")["my-notes.md"] = b"the owner's own"
    model_files(run_dir / "align/final", 301)
    finish(run_dir, "align", counts={"conversations_train": 7})
    write_report(run_dir)
    before = len(hub.uploads)
    publisher.send(prepare(run_dir), public=False, endpoint=hub.url)
    assert len(hub.uploads) == before + 1  # the chat model's weights
    held = hub.files("dataset", "ana/pequeno-corpus")
    assert "data/train-00009.jsonl.zst" not in held
    assert held["my-notes.md"] == b"the owner's own"


def test_a_cut_upload_goes_on(run_dir: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
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


def send_refused(run_dir: Path, hub: Hub, code: str) -> str:
    with pytest.raises(UserError) as error:
        publisher.send(prepare(run_dir), public=False, endpoint=hub.url)
    assert error.value.code == code, error.value
    assert "\n" not in str(error.value)
    assert TOKEN not in str(error.value)
    return str(error.value)


def test_no_token(run_dir: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(run_dir / "no-token"))
    assert "hf auth login" in send_refused(run_dir, hub, "hub-token")


def test_a_wrong_token(run_dir: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)
    assert "401" in send_refused(run_dir, hub, "hub-token")


def test_a_token_that_may_only_read(run_dir: Path, hub: Hub) -> None:
    hub.role = "read"
    assert "may only read" in send_refused(run_dir, hub, "hub-permission")


def test_a_name_that_is_not_ours(run_dir: Path, hub: Hub) -> None:
    hub.user = "bia"
    assert "who may write under: bia" in send_refused(run_dir, hub, "hub-permission")
    assert hub.repos == {}


def test_the_hub_says_no(run_dir: Path, hub: Hub) -> None:
    hub.answer["POST /api/repos/create"] = (403, "Forbidden: pass a write token")
    assert "403" in send_refused(run_dir, hub, "hub-permission")


def test_a_repository_of_somebody_else(run_dir: Path, hub: Hub) -> None:
    hub.seed("dataset", "ana/pequeno-corpus", **{"data/mine.parquet": b"x"})
    said = send_refused(run_dir, hub, "repo-not-ours")
    assert "ana/pequeno-corpus" in said
    assert ("model", "ana/pequeno") not in hub.repos  # looked at before anything was made
    hub.seed("dataset", "ana/pequeno-corpus", **{".teenytinyllama/outro.json": b"{}"})
    assert "another run" in send_refused(run_dir, hub, "repo-not-ours")
    hub.seed("dataset", "ana/pequeno-corpus", **{"README.md": b"made by hand"})
    publisher.send(prepare(run_dir), public=False, endpoint=hub.url)


def test_a_hub_that_is_down_or_off(
    run_dir: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = prepare(run_dir)
    with pytest.raises(Interrupted, match="cannot be reached"):
        publisher.send(plan, public=False, endpoint="http://127.0.0.1:9")
    hub.answer["GET /api/whoami-v2"] = (429, "Too many requests")
    with pytest.raises(Interrupted, match="429"):
        publisher.send(plan, public=False, endpoint=hub.url)


def test_what_is_not_finished(run_dir: Path) -> None:
    assert "is no name" in refused(run_dir, "repo-name", to="pequeno")
    assert refused(run_dir.parent, "run-missing")
    (run_dir / "align/manifest.json").unlink()
    assert "align changed since" in refused(run_dir, "report-stale")
    write_report(run_dir)
    assert "align/manifest.json is not here" in refused(run_dir, "run-unfinished", parts=("chat",))
    (run_dir / "report/manifest.json").unlink()
    assert "ttl report" in refused(run_dir, "run-unfinished")


def test_a_file_that_is_not_as_its_manifest_says(run_dir: Path) -> None:
    weights = run_dir / "pretrain/final/model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + b"\0")
    assert "changed since its manifest" in refused(run_dir, "file-changed")
    weights.unlink()
    weights.symlink_to(run_dir / "align/final/model.safetensors")
    assert "is a link" in refused(run_dir, "file-changed")
    weights.unlink()
    assert "is gone" in refused(run_dir, "file-changed")


def test_a_secret_in_a_document_is_named_without_being_shown(tmp_path: Path) -> None:
    run_dir = build(tmp_path / "run", texts=("Bom dia.", f"A chave é {SECRET} e pronto."))
    said = refused(run_dir, "publish-unsafe")
    assert "heldout-00000.jsonl.zst:2: hugging-face-token" in said
    assert SECRET not in said
    fingerprint = said.rpartition("--accept ")[2]
    assert prepare(run_dir, accepted=(fingerprint,))


def test_licences_that_forbid_it(tmp_path: Path) -> None:
    run_dir = build(tmp_path / "run", license_name="CC-BY-NC-ND-4.0")
    said = refused(run_dir, "license-clash")
    assert "may not be passed on" in said
    assert prepare(run_dir, parts=("model",))[0].license == "CC-BY-NC-ND-4.0"


def test_the_files_as_a_folder(run_dir: Path, tmp_path: Path) -> None:
    plan = prepare(run_dir)
    publisher.write_folder(plan, tmp_path / "out")
    assert (tmp_path / "out/ana/pequeno/step-0000100/config.json").is_file()
    with pytest.raises(UserError, match="folder-not-empty"):
        publisher.write_folder(plan, tmp_path / "out")


def test_the_command(run_dir: Path, hub: Hub) -> None:
    command = [sys.executable, "-m", "teenytinyllama.cli", "publish", str(run_dir), "--to"]
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
    env["HF_HUB_DISABLE_XET"] = "1"
    dry = subprocess.run([*command, "ana/pequeno"], capture_output=True, text=True, env=env)
    assert dry.returncode == 0, dry.stderr
    assert "Nothing was sent" in dry.stderr
    assert hub.repos == {}
    sent = subprocess.run(
        [*command, "ana/pequeno", "--upload"], capture_output=True, text=True, env=env
    )
    assert sent.returncode == 0, sent.stderr
    assert len(hub.repos) == 3
    assert TOKEN not in sent.stdout + sent.stderr
    wrong = subprocess.run(
        [*command, "ana/pequeno", "--only", "modle"], capture_output=True, text=True, env=env
    )
    assert wrong.returncode == 2
    assert 'did you mean "model"?' in wrong.stderr


def test_manifests_are_published_without_the_folders_of_a_person(run_dir: Path) -> None:
    recipe = {"sources": [{"license": "Apache-2.0", "path": "/home/maria/textos/*.txt"}]}
    counts = {"documents_read": 2, "documents_kept": 2, "licenses": {"Apache-2.0": 2}}
    finish(run_dir, "corpus", recipe=recipe, counts=counts)
    write_report(run_dir)
    plan = prepare(run_dir)
    for item in plan[0].revisions[0].items:
        data = item.source if isinstance(item.source, bytes) else item.source.read_bytes()
        assert b"maria" not in data
    assert hash_outputs(run_dir / "report")
