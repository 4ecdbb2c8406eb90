"""Small things built once per session: a corpus of storybook documents and its tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest

from teenytinyllama import storybook
from teenytinyllama.context import RoomContext
from teenytinyllama.energy import EnergyMeter
from teenytinyllama.formats.documents import Document, DocumentWriter
from teenytinyllama.recipe import EnergySettings, TokenizerSettings

SMALL_VOCAB_SIZE = 640


@pytest.fixture(scope="session")
def room_context() -> RoomContext:
    energy = EnergySettings()
    return RoomContext("test", "pt", energy, EnergyMeter(energy))


@pytest.fixture(scope="session")
def small_corpus_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 documents to train on and 12 held out, all different."""
    folder = tmp_path_factory.mktemp("corpus")
    told = list(storybook.documents(num_documents=132, seed=7))
    with DocumentWriter(folder, "train") as train, DocumentWriter(folder, "heldout") as heldout:
        for index, story in enumerate(told):
            writer = heldout if index % 11 == 0 else train
            # The number makes equal short texts differ: held-out text must not be trained on.
            text = f"{story.text}\n\nNota {index}.\n"
            writer.write(Document(f"story-{index}", text, "storybook", "Apache-2.0"))
    return folder


@pytest.fixture(scope="session")
def small_tokenizer_dir(
    small_corpus_dir: Path, room_context: RoomContext, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tokenizer room's folder for that corpus, 640 pieces."""
    from teenytinyllama.stages import tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    settings = TokenizerSettings(vocab_size=SMALL_VOCAB_SIZE)
    tokenizer.run(
        settings=settings, context=room_context, out_dir=folder, corpus_dir=small_corpus_dir
    )
    return folder
