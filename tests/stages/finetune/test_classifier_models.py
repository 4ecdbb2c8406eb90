"""Models to fine-tune: the run's own, and encoders from elsewhere."""

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
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    LlamaForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from teenytinyllama.artifacts.tokenizer import TextEncoder, load_tokenizer
from teenytinyllama.errors import UserError
from teenytinyllama.modeling.initialization import build_model, llama_config, settings_of
from teenytinyllama.modeling.loading import save_final
from teenytinyllama.settings.datasets import LabelledSet
from teenytinyllama.settings.post_training import FinetuneSettings
from teenytinyllama.settings.training import LoraSettings
from teenytinyllama.stages.finetune import stage as finetune
from teenytinyllama.stages.finetune.classification_task import LabelLoss, predict
from teenytinyllama.stages.finetune.classifier_models import other_model, own_model
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


@pytest.fixture(scope="module")
def encoder(small_tokenizer_dir: Path) -> TextEncoder:
    return load_tokenizer(small_tokenizer_dir)


def save_tokenizer(folder: Path) -> int:
    """A tokenizer of whole words with token types for the texts of a pair; returns its size."""
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


def test_an_encoder_gets_token_type_ids_of_pairs(bert_dir: Path) -> None:
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
            with_types = model(input_ids=ids, token_type_ids=types).logits[0]
            without = model(input_ids=ids).logits[0]
        torch.testing.assert_close(torch.from_numpy(logits), with_types, atol=1e-5, rtol=0)
        assert not torch.allclose(with_types, without, atol=1e-3)
    # The loss passes them on as well.
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    with torch.no_grad():
        loss = LabelLoss(model, candidate.pad_id)(**tensors)
    logits = torch.from_numpy(found[0]), torch.from_numpy(found[1])
    expected = sum(
        torch.nn.functional.cross_entropy(one, torch.tensor(row.label))
        for one, row in zip(logits, [pair, short], strict=True)
    )
    assert float(loss) == pytest.approx(float(expected), abs=1e-4)


def test_texts_are_cut_at_the_context_length(
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


def test_roberta_positions_start_after_the_padding_index(tmp_path: Path) -> None:
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
def test_an_encoder_is_trained_with_and_without_lora(
    lora: LoraSettings | None,
    bert_dir: Path,
    small_base_dir: Path,
    small_tokenizer_dir: Path,
    stage_context: StageContext,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = run_stage(
        tmp_path,
        small_base_dir,
        small_tokenizer_dir,
        stage_context,
        models=(str(bert_dir),),
        lora=lora,
        max_length=12,
    )
    metrics = result.metrics["tasks"]["sentimento"]
    assert 0 <= metrics["bert_accuracy"] <= 1
    cut = result.counts["tasks"]["sentimento"]["texts_truncated_by"]
    assert sum(cut["own"].values()) == result.counts["tasks"]["sentimento"]["texts_truncated"]
    candidate = other_model(str(bert_dir), 12)
    data = finetune.read_labelled(SETTINGS.tasks[0])
    expected = {
        name: sum(candidate.encode(one).was_cut for one in rows)
        for name, rows in data.splits.items()
    }
    assert cut["bert"] == expected
    assert all(expected.values())
    assert f"bert cuts {expected['train']} train, {expected['validation']} validation, " in (
        capsys.readouterr().err
    )


def remove_weights(folder: Path) -> None:
    whole = load_file(folder / "model.safetensors")
    save_file(
        {name: tensor for name, tensor in whole.items() if "layer.1." not in name},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


DAMAGES = {
    "lacking weights": (remove_weights, "weights are not in its files"),
    "half a file": (cut_weights, "cannot be loaded"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").write_text("{"), "model-missing"),
    "no config": (lambda folder: (folder / "config.json").write_text("{"), "model-missing"),
    "no folder": (shutil.rmtree, "model-missing"),
}


@pytest.mark.parametrize("kind", list(DAMAGES))
def test_a_damaged_model_is_refused_before_any_training(
    kind: str,
    bert_dir: Path,
    small_base_dir: Path,
    small_tokenizer_dir: Path,
    stage_context: StageContext,
    tmp_path: Path,
) -> None:
    folder, out_dir = tmp_path / "bert", tmp_path / "finetune"
    shutil.copytree(bert_dir, folder)
    damage, message = DAMAGES[kind]
    damage(folder)
    out_dir.mkdir()
    run = (out_dir, small_base_dir, small_tokenizer_dir, stage_context)
    with pytest.raises(UserError, match=message) as caught:
        run_stage(*run, models=(str(folder),))
    assert "\n" not in str(caught.value)
    # Nothing is there, so the repaired model needs no --redo.
    assert list(out_dir.iterdir()) == []
    if kind == "half a file":
        shutil.copytree(bert_dir, folder, dirs_exist_ok=True)
        metrics = run_stage(*run, models=(str(folder),)).metrics["tasks"]["sentimento"]
        assert "bert_accuracy" in metrics
        AutoModelForSequenceClassification.from_pretrained(out_dir / "sentimento" / "final")


@pytest.mark.parametrize("names", [("{}", "{}/"), ("{}/final",), ("{}/seed-0",)])
def test_models_with_clashing_folder_names_are_refused(
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


def test_a_missing_library_is_reported_before_any_training(
    small_base_dir: Path,
    small_tokenizer_dir: Path,
    stage_context: StageContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(finetune, "train_one", lambda *_, **__: pytest.fail("trained"))
    for name, changes in (("sklearn", {}), ("peft", {"lora": LoraSettings(rank=2)})):
        with monkeypatch.context() as patch, pytest.raises(UserError, match="extra-missing"):
            patch.setitem(sys.modules, name, None)
            run_stage(tmp_path, small_base_dir, small_tokenizer_dir, stage_context, **changes)


def test_the_seed_decides_the_head_and_nothing_else(
    small_base_dir: Path, small_tokenizer_dir: Path, encoder: TextEncoder
) -> None:
    candidate = own_model(small_base_dir, small_tokenizer_dir, encoder, 100)
    one, same, other = (candidate.make(["a", "b"], seed) for seed in (0, 0, 1))
    assert isinstance(one, LlamaForSequenceClassification)
    assert torch.equal(one.score.weight, same.score.weight)
    assert not torch.equal(one.score.weight, other.score.weight)
    assert torch.equal(one.model.norm.weight, other.model.norm.weight)
    assert torch.equal(one.model.embed_tokens.weight, other.model.embed_tokens.weight)
    random_init = own_model(small_base_dir, small_tokenizer_dir, encoder, 100, is_random=True)
    assert not torch.equal(
        random_init.make(["a", "b"], 5).model.embed_tokens.weight, one.model.embed_tokens.weight
    )


@pytest.fixture(params=["llama", "qwen3"])
def base_dir(request: pytest.FixtureRequest, small_base_dir: Path, tmp_path: Path) -> Path:
    """A base model of each kind, with a tokenizer."""
    if request.param == "llama":
        return small_base_dir
    sizes = settings_of(AutoConfig.from_pretrained(small_base_dir / "final"))
    settings = sizes.model_copy(update={"kind": "qwen3"})
    vocab_size = AutoConfig.from_pretrained(small_base_dir / "final").vocab_size
    config = llama_config(settings, vocab_size, bos_id=1, eos_id=2, pad_id=3)
    save_final(build_model(config, seed=0), tmp_path / "final", small_base_dir / "final")
    return tmp_path


def test_the_mean_layer_starts_as_a_mean(base_dir: Path, small_tokenizer_dir: Path) -> None:
    encoder = load_tokenizer(small_tokenizer_dir)
    read_mean = own_model(base_dir, small_tokenizer_dir, encoder, 64, takes_mean=True)
    model = read_mean.make(["a", "b"], 0).eval()
    base = AutoModelForCausalLM.from_pretrained(base_dir / "final").eval()
    ids = torch.tensor([[1, 40, 41, 42, 43, 2]])
    with torch.no_grad():
        found = model.model(input_ids=ids).last_hidden_state[0, -1]
        # The last of these is normed already: it is what the head for next tokens reads.
        normed = base.model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0]
        mean = normed.mean(dim=0)
        weight = base.model.norm.weight
        expected = weight * mean / mean.square().mean().sqrt()
    assert model.config.num_hidden_layers == base.config.num_hidden_layers + 1
    assert torch.nn.functional.cosine_similarity(found, expected, dim=0) > 0.999
    assert not torch.allclose(normed[-1], expected, atol=0.1)


def test_a_mean_needs_as_many_key_value_heads_as_heads(
    small_base_dir: Path, small_tokenizer_dir: Path, tmp_path: Path
) -> None:
    config = AutoConfig.from_pretrained(small_base_dir / "final", num_key_value_heads=1)
    shutil.copytree(small_base_dir, tmp_path / "grouped")
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "grouped" / "final")
    encoder = load_tokenizer(small_tokenizer_dir)
    folder = tmp_path / "grouped"
    candidate = own_model(folder, small_tokenizer_dir, encoder, 64, takes_mean=True)
    with pytest.raises(UserError, match="the model has 1 key-value heads for"):
        candidate.make(["a", "b"], 0)
