"""`ttl classify`: one line per record, and one line for a damaged classifier or file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from teenytinyllama.errors import UserError
from teenytinyllama.settings.datasets import LabelledSet
from teenytinyllama.settings.post_training import FinetuneSettings
from teenytinyllama.stages.finetune import classify
from teenytinyllama.stages.finetune import stage as finetune
from teenytinyllama.stages.interface import StageContext


@pytest.fixture(scope="module")
def done(
    small_base_dir: Path,
    small_tokenizer_dir: Path,
    stage_context: StageContext,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A finetune stage's folder with one classifier."""
    folder = tmp_path_factory.mktemp("finetune")
    finetune.run(
        settings=FinetuneSettings(
            tasks=(LabelledSet(name="sentimento", kind="storybook", num_items=48, seed=7),),
            num_epochs=1,
            learning_rate=3e-3,
        ),
        context=stage_context,
        out_dir=folder,
        tokenizer_dir=small_tokenizer_dir,
        pretrain_dir=small_base_dir,
    )
    return folder


def test_classify_labels_new_files(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("Adorei o bolo.\n\nDetestei.\n")
    (tmp_path / "b.csv").write_text("id,frase\n7,Que festa boa!\n")
    classify.run(model=done, files=[tmp_path / "a.txt"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["text"] for line in lines] == ["Adorei o bolo.", "", "Detestei."]
    labelled = [line for line in lines if line["text"]]
    assert all(line["predicted"] in ("negativo", "positivo") for line in labelled)
    assert all(0.5 <= line["probability"] <= 1 for line in labelled)
    with pytest.raises(UserError, match=r"b\.csv:2:text - no text in the column.*id, frase"):
        classify.run(model=done, files=[tmp_path / "b.csv"])
    classify.run(model=done / "sentimento", files=[tmp_path / "b.csv"], columns=["frase"])
    assert json.loads(capsys.readouterr().out)["id"] == "7"


def test_without_a_classifier_it_names_the_command_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no classifier here - fix: run `ttl finetune RECIPE`"):
        classify.run(model=tmp_path, files=[])
    with pytest.raises(UserError, match="there is no such folder"):
        classify.run(model=tmp_path / "no", files=[])


def test_one_line_in_is_one_line_out(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["\ufeffAdorei.", "um\u2028dois\x0ctrês\x85quatro", "", "  ", "Detestei!\r", "fim"]
    path = tmp_path / "a.TXT"
    path.write_bytes("\n".join(texts).encode())
    classify.run(model=done, files=[path])
    out, shown = capsys.readouterr()
    lines = [json.loads(line) for line in out.split("\n")[:-1]]
    assert [line["text"] for line in lines] == ["Adorei.", texts[1], "", "", "Detestei!", "fim"]
    unlabelled = [line["predicted"] is None and line["probability"] is None for line in lines]
    assert unlabelled == [False, False, True, True, False, False]
    assert "4 texts labelled, 0 cut at 128 tokens, 2 empty, without a label" in shown


def test_an_empty_text_of_a_table_gets_no_label(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.csv").write_text("id;text\n1;bom\n2;\n3;mau\n")
    classify.run(model=done, files=[tmp_path / "a.csv"])
    out, shown = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [(line["id"], line["predicted"] is None) for line in lines] == [
        ("1", False),
        ("2", True),
        ("3", False),
    ]
    assert "1 empty, without a label" in shown


def test_a_file_that_is_not_utf8_is_refused(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("bom\nmaçã\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"text-encoding.*a\.txt:2 - not UTF-8 at byte 2"):
        classify.run(model=done, files=[path])
    capsys.readouterr()
    path.write_text("bom\nmaçã\n", encoding="utf-8")
    classify.run(model=done, files=[path])
    assert len(capsys.readouterr().out.splitlines()) == 2


def without_a_layer(path: Path) -> None:
    whole = load_file(path)
    kept = {name: tensor for name, tensor in whole.items() if "layers.1.mlp" not in name}
    save_file(kept, path, metadata={"format": "pt"})


DAMAGES: dict[str, Any] = {
    "half a file": (
        "model.safetensors",
        lambda path: path.write_bytes(path.read_bytes()[:-64]),
        "cannot be loaded",
    ),
    "lacking weights": ("model.safetensors", without_a_layer, "3 of its weights are not in its"),
    "no columns": ("classifier.json", lambda path: path.write_text("{}"), "KeyError"),
    "no JSON": ("classifier.json", lambda path: path.write_text('{"text'), "JSONDecodeError"),
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_classifier_labels_nothing(
    damage: str, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, damage_file, message = DAMAGES[damage]
    folder = tmp_path / "final"
    shutil.copytree(done / "sentimento" / "final", folder)
    damage_file(folder / name)
    (tmp_path / "a.txt").write_text("bom\n")
    with pytest.raises(UserError, match=f"model-damaged.*{message}") as caught:
        classify.run(model=folder, files=[tmp_path / "a.txt"])
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


def test_the_classifier_is_moved_to_the_device(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No GPU is needed for this: the device that is asked for is one without storage."""
    monkeypatch.setattr(classify, "present_device", lambda: torch.device("meta"))
    devices: list[torch.device] = []

    def look(model: Any, rows: list[Any], pad_id: int) -> list[Any]:
        devices.append(next(model.parameters()).device)
        return [torch.zeros(2).numpy() for _ in rows]

    monkeypatch.setattr(classify, "predict", look)
    (tmp_path / "a.txt").write_text("bom\n")
    classify.run(model=done, files=[tmp_path / "a.txt"])
    assert [device.type for device in devices] == ["meta"]


@pytest.mark.gpu
def test_a_gpu_gives_the_same_labels(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("Adorei o bolo.\nDetestei.\nQue festa boa!\n")
    classify.run(model=done, files=[tmp_path / "a.txt"])
    on_gpu = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    monkeypatch.setattr(classify, "present_device", lambda: torch.device("cpu"))
    classify.run(model=done, files=[tmp_path / "a.txt"])
    on_cpu = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["predicted"] for one in on_gpu] == [one["predicted"] for one in on_cpu]
    for one, other in zip(on_gpu, on_cpu, strict=True):
        # TF32 is off: what differs is the order of the sums.
        assert one["probability"] == pytest.approx(other["probability"], abs=1e-3)


def test_a_classifier_that_names_a_base_model_elsewhere_is_refused(
    done: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(done / "sentimento" / "final", tmp_path / "final")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/model"}')
    with pytest.raises(UserError, match=r"model-unsafe.*adapter_config\.json"):
        classify.run(model=folder, files=[])
