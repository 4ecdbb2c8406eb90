"""A run folder in small, built in a second: corpus, tokenizer and a random two-layer model."""

from __future__ import annotations

import shutil
from pathlib import Path

from support.tiny_llama import tiny_llama
from teenytinyllama.artifacts.documents import Document, DocumentWriter
from teenytinyllama.energy import EnergyMeter
from teenytinyllama.settings.base import EnergySettings
from teenytinyllama.settings.data_preparation import TokenizerSettings
from teenytinyllama.stages.interface import StageContext
from teenytinyllama.stages.tokenizer import stage as tokenizer

WORDS = ("gato", "cão", "pássaro", "navio", "coração")
TEXTS = [
    f"A raposa mora na floresta número {i}. Olá, João! O {word} {'🦊' * (i % 2)}é bonito?\n"
    for i in range(30)
    for word in WORDS
]
VOCAB_SIZE = 360


def make_run(
    root: Path, *, tokenizer_model: str = "bpe", kind: str = "llama", **changes: object
) -> Path:
    """A run folder with a corpus, a tokenizer and a small random model, a few pieces padded."""
    for split, texts in (("heldout", TEXTS[:6]), ("train", TEXTS[6:])):
        with DocumentWriter(root / "corpus", split) as writer:
            for number, text in enumerate(texts):
                writer.write(Document(f"{split}-{number}", text, "made", "CC0-1.0"))
    (root / "tokenizer").mkdir()
    energy = EnergySettings()
    tokenizer.run(
        # So short a text holds 65 pairs of bytes.
        settings=TokenizerSettings(
            vocab_size=320 if tokenizer_model == "byte-level" else VOCAB_SIZE,
            model=tokenizer_model,
        ),
        context=StageContext("test", "pt", energy, EnergyMeter(energy)),
        out_dir=root / "tokenizer",
        corpus_dir=root / "corpus",
    )
    sizes = {
        "vocab_size": VOCAB_SIZE + 8,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.1,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 3,
    }
    final = root / "pretrain" / "final"
    tiny_llama(kind, **{**sizes, **changes}).save_pretrained(final)
    for path in (root / "tokenizer").iterdir():
        shutil.copy(path, final)
    return root
