"""Encoders beside the run's own model: read whole, told which text is which, checked in time."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from teenytinyllama.errors import UserError
from teenytinyllama.settings.datasets import LabelledSet
from teenytinyllama.settings.post_training import FinetuneSettings
from teenytinyllama.settings.training import LoraSettings
from teenytinyllama.stages.finetune import stage as finetune
from teenytinyllama.stages.finetune import stage as finetune_stage
from teenytinyllama.stages.finetune.classification_task import LabelLoss, predict
from teenytinyllama.stages.finetune.classifier_models import other_model
from teenytinyllama.stages.finetune.labelled_dataset import Example
from teenytinyllama.stages.finetune.length_grouping import pad
from teenytinyllama.stages.interface import StageContext
from teenytinyllama.synthetic import dataset as synthetic

NUM_POSITIONS = 24
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": NUM_POSITIONS,
}
SETTINGS = FinetuneSettings(
    tasks=(LabelledSet(name="sentimento", kind="storybook", num_items=48, seed=7),),
    num_epochs=1,
    learning_rate=3e-3,
    max_length=1024,
)


def save_tokenizer(folder: Path) -> int:
    """A tokenizer of whole words that tells the texts of a pair apart; returns its size."""
    words = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    texts = [one["text"] for one in synthetic.sentiment(seed=7, num_items=48, split="train")]
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=marks))
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    BertTokenizer(
        tokenizer_object=words,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    ).save_pretrained(folder)
    return words.get_vocab_size()


@pytest.fixture(scope="module")
def bert_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT with 24 positions."""
    folder = tmp_path_factory.mktemp("models") / "bert"
    config = BertConfig(
        vocab_size=save_tokenizer(folder),
        num_hidden_layers=2,
        **SIZES,
        initializer_range=0.5,
    )
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_the_model_is_told_which_text_of_a_pair_a_token_is_of(bert_dir: Path) -> None:
    candidate = other_model(str(bert_dir), 100)
    pair = candidate.encode(Example(("o gato", "a casa grande"), 1))
    assert pair.token_types == (0, 0, 0, 0, 1, 1, 1, 1)
    short = candidate.encode(Example(("o", "a"), 0))
    arrays = pad([pair, short], candidate.pad_id)
    assert arrays["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 0, 0, 0]]

    model = candidate.make(["a", "b"], 0).eval()
    found = predict(model, [pair, short], candidate.pad_id)
    for row, logits in zip([pair, short], found, strict=True):
        ids, types = torch.tensor([row.ids]), torch.tensor([row.token_types])
        with torch.no_grad():
            told = model(input_ids=ids, token_type_ids=types).logits[0]
            not_told = model(input_ids=ids).logits[0]
        torch.testing.assert_close(torch.from_numpy(logits), told, atol=1e-5, rtol=0)
        assert not torch.allclose(told, not_told, atol=1e-3)
    # What is trained on hears it too.
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    with torch.no_grad():
        loss = LabelLoss(model, candidate.pad_id)(**tensors)
    logits = torch.from_numpy(found[0]), torch.from_numpy(found[1])
    expected = sum(
        torch.nn.functional.cross_entropy(one, torch.tensor(row.label))
        for one, row in zip(logits, [pair, short], strict=True)
    )
    assert float(loss) == pytest.approx(float(expected), abs=1e-4)


def test_a_text_is_cut_where_the_positions_end(
    bert_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    candidate = other_model(str(bert_dir), 1024)
    assert candidate.max_length == NUM_POSITIONS
    assert f"reads {NUM_POSITIONS} tokens, max_length = 1024" in capsys.readouterr().err
    for words, was_cut in ((NUM_POSITIONS - 2, False), (NUM_POSITIONS - 1, True), (200, True)):
        row = candidate.encode(Example(("gato " * words,), 0))
        assert (len(row.ids), row.was_cut) == (NUM_POSITIONS, was_cut)
        predict(candidate.make(["a", "b"], 0).eval(), [row], candidate.pad_id)
    assert other_model(str(bert_dir), 16).max_length == 16
    assert capsys.readouterr().err == ""


def test_roberta_numbers_its_positions_from_behind_the_padding(tmp_path: Path) -> None:
    config = RobertaConfig(
        vocab_size=save_tokenizer(tmp_path),
        num_hidden_layers=1,
        **SIZES,
        pad_token_id=1,
        type_vocab_size=1,
    )
    RobertaForSequenceClassification(config).save_pretrained(tmp_path)
    candidate = other_model(str(tmp_path), 1024)
    assert candidate.max_length == NUM_POSITIONS - 2
    row = candidate.encode(Example(("gato " * 99, "casa " * 99), 0))
    assert (row.was_cut, row.token_types) == (True, ())
    predict(candidate.make(["a", "b"], 0).eval(), [row], candidate.pad_id)


def test_a_home_folder_is_found(bert_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(bert_dir.parent))
    candidate = other_model("~/bert", 16)
    assert candidate.name == "bert"
    candidate.make(["a", "b"], 0)


def run_stage(
    out_dir: Path, base_dir: Path, tokenizer_dir: Path, context: StageContext, **changes: Any
) -> Any:
    return finetune.run(
        settings=SETTINGS.model_copy(update=changes),
        context=context,
        out_dir=out_dir,
        tokenizer_dir=tokenizer_dir,
        pretrain_dir=base_dir,
    )


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2)])
def test_an_encoder_is_trained_beside_our_own_with_and_without_lora(
    lora: LoraSettings | None,
    bert_dir: Path,
    small_base_dir: Path,
    small_tokenizer_dir: Path,
    stage_context: StageContext,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    outcome = run_stage(
        tmp_path,
        small_base_dir,
        small_tokenizer_dir,
        stage_context,
        models=(str(bert_dir),),
        lora=lora,
        max_length=12,
    )
    metrics = outcome.metrics["tasks"]["sentimento"]
    assert 0 <= metrics["bert_accuracy"] <= 1
    cut = outcome.counts["tasks"]["sentimento"]["texts_truncated_by"]
    assert sum(cut["own"].values()) == outcome.counts["tasks"]["sentimento"]["texts_truncated"]
    candidate = other_model(str(bert_dir), 12)
    data = finetune_stage.read_labelled(SETTINGS.tasks[0])
    expected = {
        name: sum(candidate.encode(one).was_cut for one in rows)
        for name, rows in data.splits.items()
    }
    assert cut["bert"] == expected
    assert all(expected.values())
    assert f"bert cuts {expected['train']} train, {expected['validation']} validation, " in (
        capsys.readouterr().err
    )


def spoil_weights(folder: Path) -> None:
    whole = load_file(folder / "model.safetensors")
    save_file(
        {name: tensor for name, tensor in whole.items() if "layer.1." not in name},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


SPOILT = {
    "lacking weights": (spoil_weights, "weights are not in its files"),
    "half a file": (cut_weights, "cannot be loaded"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").write_text("{"), "model-missing"),
    "no config": (lambda folder: (folder / "config.json").write_text("{"), "model-missing"),
    "no folder": (shutil.rmtree, "model-missing"),
}


@pytest.mark.parametrize("fault", list(SPOILT))
def test_a_spoilt_model_is_told_before_any_training_and_mended_it_runs(
    fault: str,
    bert_dir: Path,
    small_base_dir: Path,
    small_tokenizer_dir: Path,
    stage_context: StageContext,
    tmp_path: Path,
) -> None:
    folder, out_dir = tmp_path / "bert", tmp_path / "finetune"
    shutil.copytree(bert_dir, folder)
    spoil, message = SPOILT[fault]
    spoil(folder)
    out_dir.mkdir()
    run = (out_dir, small_base_dir, small_tokenizer_dir, stage_context)
    with pytest.raises(UserError, match=message) as caught:
        run_stage(*run, models=(str(folder),))
    assert "\n" not in str(caught.value)
    # Nothing is there, so the mended model needs no --redo.
    assert list(out_dir.iterdir()) == []
    if fault == "half a file":
        shutil.copytree(bert_dir, folder, dirs_exist_ok=True)
        metrics = run_stage(*run, models=(str(folder),)).metrics["tasks"]["sentimento"]
        assert "bert_accuracy" in metrics
        AutoModelForSequenceClassification.from_pretrained(out_dir / "sentimento" / "final")


@pytest.mark.parametrize("names", [("{}", "{}/"), ("{}/final",), ("{}/seed-0",)])
def test_models_whose_folders_would_meet_are_refused(
    names: tuple[str, ...],
    bert_dir: Path,
    small_base_dir: Path,
    small_tokenizer_dir: Path,
    stage_context: StageContext,
    tmp_path: Path,
) -> None:
    for name in ("final", "seed-0"):
        shutil.copytree(bert_dir, tmp_path / "models" / name)
    where = tmp_path / "models" if len(names) == 1 else bert_dir
    with pytest.raises(UserError, match="model-name"):
        run_stage(
            tmp_path / "out",
            small_base_dir,
            small_tokenizer_dir,
            stage_context,
            models=tuple(name.format(where) for name in names),
        )


def test_a_missing_library_is_told_before_any_training(
    small_base_dir: Path,
    small_tokenizer_dir: Path,
    stage_context: StageContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(finetune_stage, "train_one", lambda *_, **__: pytest.fail("trained"))
    for name, changes in (("sklearn", {}), ("peft", {"lora": LoraSettings(rank=2)})):
        with monkeypatch.context() as patch, pytest.raises(UserError, match="extra-missing"):
            patch.setitem(sys.modules, name, None)
            run_stage(tmp_path, small_base_dir, small_tokenizer_dir, stage_context, **changes)
