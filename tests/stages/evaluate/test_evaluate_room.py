"""The room as a whole: folders in, scores out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from teenytinyllama import storybook
from teenytinyllama.formats.documents import Document, DocumentWriter
from teenytinyllama.model import build_model, llama_config
from teenytinyllama.recipe import (
    EvaluateSettings,
    ModelSettings,
    PackSettings,
    Task,
    TokenizerSettings,
)
from teenytinyllama.stages import evaluate, pack, tokenizer

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
        context=None,
        out_dir=root / "tokenizer",
        corpus_dir=root / "corpus",
    )
    pack.run(settings=PackSettings(), context=None, out_dir=root / "tokens", **folders)
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
        context=None,
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
        context=None,
        out_dir=tmp_path / "scores",
        corpus_dir=corpus,
        tokenizer_dir=run_dir / "tokenizer",
        pack_dir=run_dir / "tokens",
        pretrain_dir=run_dir / "pretrain",
    )
    assert outcome.figures["heldout_leaks_exact"] == 1
