"""The room as a whole: folders in, scores out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from teenytinyllama import storybook
from teenytinyllama.context import RoomContext
from teenytinyllama.energy import EnergyMeter
from teenytinyllama.errors import UserError
from teenytinyllama.formats.documents import Document, DocumentWriter
from teenytinyllama.model import build_model, llama_config
from teenytinyllama.recipe import (
    EnergySettings,
    EvaluateSettings,
    ModelSettings,
    PackSettings,
    Task,
    TokenizerSettings,
)
from teenytinyllama.stages import evaluate, pack, tokenizer
from teenytinyllama.stages.evaluate import models, room  # noqa: F401 (as evaluate.models)

CONTEXT = RoomContext("test", "pt", EnergySettings(), EnergyMeter(EnergySettings()))
MODEL = ModelSettings(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=64,
)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Corpus, tokenizer, tokens and a random model, as the earlier rooms leave them."""
    root = tmp_path_factory.mktemp("run")
    found = storybook.documents(seed=0, num_documents=220)
    documents = [
        Document(id=d.id, text=d.text, source=d.kind, license=storybook.LICENSE) for d in found
    ]
    for split, part in (("train", documents[:200]), ("heldout", documents[200:])):
        with DocumentWriter(root / "corpus", split) as writer:
            for document in part:
                writer.write(document)
    folders = {"corpus_dir": root / "corpus", "tokenizer_dir": root / "tokenizer"}
    for name in ("tokenizer", "tokens"):
        (root / name).mkdir()
    tokenizer.run(
        settings=TokenizerSettings(vocab_size=600),
        context=CONTEXT,
        out_dir=root / "tokenizer",
        corpus_dir=root / "corpus",
    )
    pack.run(settings=PackSettings(), context=CONTEXT, out_dir=root / "tokens", **folders)
    final = root / "pretrain" / "final"
    config = llama_config(MODEL, 600, bos_id=1, eos_id=2, pad_id=3)
    build_model(config, seed=0).save_pretrained(final)
    for path in (root / "tokenizer").iterdir():
        shutil.copy(path, final)
    return root


def run(run_dir: Path, out_dir: Path, **settings):
    out_dir.mkdir(exist_ok=True)
    return evaluate.run(
        settings=EvaluateSettings(**settings),
        context=CONTEXT,
        out_dir=out_dir,
        corpus_dir=run_dir / "corpus",
        tokenizer_dir=run_dir / "tokenizer",
        pack_dir=run_dir / "tokens",
        pretrain_dir=run_dir / "pretrain",
    )


def test_scores_text_and_tasks(run_dir, tmp_path):
    tasks = (Task(name="storybook", kind="storybook", num_items=40),)
    counts, figures = run(run_dir, tmp_path / "scores", tasks=tasks)
    assert counts["documents_heldout"] == 20
    assert counts["items"] == 40
    # A random model is about uniform: ln 600 a token.
    assert figures["heldout_perplexity"] == pytest.approx(600, rel=0.1)
    assert 1 < figures["bigram_bits_per_byte"] < figures["heldout_bits_per_byte"] < 8
    assert 1 < figures["xz_bits_per_byte"] < 8
    assert figures["heldout_leaks_exact"] == 0
    score = figures["tasks"]["storybook"]
    assert score["chance"] == 0.25
    assert score["at_chance"]
    assert score["num_items"] == 40
    written = json.loads((tmp_path / "scores" / "base" / "storybook.json").read_text())
    assert written["accuracy"] == score["accuracy"]
    assert len(written["items"]) == 40


def test_a_leaked_document_is_counted(run_dir, tmp_path):
    corpus = tmp_path / "corpus"
    shutil.copytree(run_dir / "corpus", corpus)
    with DocumentWriter(corpus, "train") as writer:
        text = next(iter(evaluate.room.read_documents(run_dir / "corpus", "heldout"))).text
        writer.write(Document(id="x", text=text, source="s", license="l"))
    (tmp_path / "scores").mkdir()
    outcome = evaluate.run(
        settings=EvaluateSettings(),
        context=CONTEXT,
        out_dir=tmp_path / "scores",
        corpus_dir=corpus,
        tokenizer_dir=run_dir / "tokenizer",
        pack_dir=run_dir / "tokens",
        pretrain_dir=run_dir / "pretrain",
    )
    assert outcome.figures["heldout_leaks_exact"] == 1


def test_other_models_and_checkpoints_are_scored_beside(run_dir, tmp_path):
    """The last checkpoint has the base model's weights: the same scores, and one answer file."""
    pretrain = tmp_path / "run" / "pretrain"
    shutil.copytree(run_dir / "pretrain", pretrain)
    for step, seed in ((10, 1), (20, 0)):
        folder = pretrain / f"step-{step:07d}"
        shutil.copytree(pretrain / "final", folder)
        config = llama_config(MODEL, 600, bos_id=1, eos_id=2, pad_id=3)
        build_model(config, seed=seed).save_pretrained(folder)
        progress = {"step": step, "tokens": step * 100, "energy": [0.0, step / 1000, 0.0, 0.0]}
        (folder / "state.json").write_text(json.dumps({"progress": progress}))
        (folder / "optimizer.safetensors").write_bytes(b"not part of the model")
    out_dir = tmp_path / "run" / "scores"
    out_dir.mkdir()
    outcome = evaluate.run(
        settings=EvaluateSettings(
            tasks=(Task(name="storybook", kind="storybook", num_items=10),),
            models=(str(pretrain / "step-0000010"),),
            checkpoints=True,
            check_overlap=False,
        ),
        context=CONTEXT,
        out_dir=out_dir,
        corpus_dir=run_dir / "corpus",
        tokenizer_dir=run_dir / "tokenizer",
        pack_dir=run_dir / "tokens",
        pretrain_dir=pretrain,
    )
    figures = outcome.figures
    first, last = figures["checkpoints"]
    assert (first["step"], first["tokens"], last["tokens"]) == (10, 1000, 2000)
    assert last["heldout_bits_per_byte"] == figures["heldout_bits_per_byte"]
    assert last["tasks"] == figures["tasks"]
    assert first["heldout_bits_per_byte"] != last["heldout_bits_per_byte"]
    [other] = figures["models"].values()
    # Its own tokenizer is the run's in Hugging Face form: the same ids, the same score.
    assert other["heldout_bits_per_byte"] == pytest.approx(first["heldout_bits_per_byte"])
    assert other["tasks"] == first["tasks"]
    answered = list((tmp_path / "run" / ".cache" / "evaluate").glob("*.jsonl"))
    assert len(answered) == 2, "two different models, one file each"
    assert (out_dir / "step-0000020" / "storybook.json").is_file()


def test_a_swapped_checkpoint_is_scored_anew(run_dir, tmp_path):
    pretrain = tmp_path / "pretrain"
    shutil.copytree(run_dir / "pretrain", pretrain)
    found = []
    for seed in (0, 1):
        config = llama_config(MODEL, 600, bos_id=1, eos_id=2, pad_id=3)
        build_model(config, seed=seed).save_pretrained(pretrain / "final")
        loaded = evaluate.models.load_model("base", pretrain / "final", precision="fp32")
        found.append(loaded.identity["weights"])
    assert found[0] != found[1]


@pytest.mark.parametrize("missing", ["weights", "folder", "damaged"])
def test_a_model_that_cannot_be_loaded_is_named_in_one_line(run_dir, tmp_path, missing):
    final = tmp_path / "final"
    shutil.copytree(run_dir / "pretrain" / "final", final)
    if missing == "weights":
        (final / "model.safetensors").unlink()
    elif missing == "damaged":
        data = (final / "model.safetensors").read_bytes()
        (final / "model.safetensors").write_bytes(data[: len(data) // 2])
    else:
        final = tmp_path / "not here at all"
    with pytest.raises(UserError) as caught:
        evaluate.models.load_model("base", final, precision="fp32")
    assert "\n" not in str(caught.value)
    assert str(final) in str(caught.value)


def test_no_checkpoints_where_the_recipe_asks_for_them(run_dir, tmp_path):
    with pytest.raises(UserError, match="checkpoints-missing"):
        run(run_dir, tmp_path / "scores", checkpoints=True, check_overlap=False)
