"""Small things built once per session: a corpus of storybook documents and its tokenizer."""

from __future__ import annotations

import os
from pathlib import Path

# Before torch is imported. Workers of pytest-xdist that have as many threads as there are cores
# wait for each other at every operator.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    cores = os.cpu_count() or 1
    threads = max(1, cores // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))


import pytest

from teenytinyllama.artifacts.documents import Document, DocumentWriter
from teenytinyllama.console import configure_logging
from teenytinyllama.energy import EnergyMeter
from teenytinyllama.settings.base import EnergySettings
from teenytinyllama.settings.data_preparation import TokenizerSettings
from teenytinyllama.stages.interface import StageContext
from teenytinyllama.synthetic import dataset as synthetic

SMALL_VOCAB_SIZE = 640
# Imported by doctest it would refuse connections in this process too.
collect_ignore = ["support/network_guard/sitecustomize.py"]

configure_logging()  # tests read log lines from standard error, as users do


@pytest.fixture(scope="session")
def stage_context() -> StageContext:
    energy = EnergySettings()
    return StageContext("test", "pt", energy, EnergyMeter(energy))


@pytest.fixture(scope="session")
def small_corpus_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 documents to train on and 12 held out, all different."""
    folder = tmp_path_factory.mktemp("corpus")
    told = list(synthetic.documents(num_documents=132, seed=7))
    with DocumentWriter(folder, "train") as train, DocumentWriter(folder, "heldout") as heldout:
        for index, story in enumerate(told):
            writer = heldout if index % 11 == 0 else train
            # The number makes equal short texts differ: held-out text must not be trained on.
            text = f"{story.text}\n\nNota {index}.\n"
            writer.write(Document(f"story-{index}", text, "storybook", "Apache-2.0"))
    return folder


@pytest.fixture(scope="session")
def small_tokenizer_dir(
    small_corpus_dir: Path, stage_context: StageContext, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tokenizer stage's folder for that corpus, 640 tokens."""
    from teenytinyllama.stages.tokenizer import stage as tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    settings = TokenizerSettings(vocab_size=SMALL_VOCAB_SIZE)
    tokenizer.run(
        settings=settings, context=stage_context, out_dir=folder, corpus_dir=small_corpus_dir
    )
    return folder


@pytest.fixture(scope="session")
def small_bytes_tokenizer_dir(
    small_corpus_dir: Path, stage_context: StageContext, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The same as a byte-level BPE."""
    from teenytinyllama.stages.tokenizer import stage as tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    settings = TokenizerSettings(vocab_size=SMALL_VOCAB_SIZE, model="byte-level")
    tokenizer.run(
        settings=settings, context=stage_context, out_dir=folder, corpus_dir=small_corpus_dir
    )
    return folder


@pytest.fixture(scope="session")
def small_base_dir(small_tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pretrain stage's folder with a random two-layer model of width 32 and context 128."""
    from teenytinyllama.artifacts.tokenizer import load_tokenizer
    from teenytinyllama.modeling.initialization import build_model, llama_config
    from teenytinyllama.modeling.loading import save_final
    from teenytinyllama.settings.training import ModelSettings

    encoder = load_tokenizer(small_tokenizer_dir)
    settings = ModelSettings(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
        initializer_range=0.1,
    )
    config = llama_config(settings, encoder.vocab_size, bos_id=1, eos_id=2, pad_id=3)
    folder = tmp_path_factory.mktemp("pretrain")
    save_final(build_model(config, seed=0), folder / "final", small_tokenizer_dir)
    return folder
