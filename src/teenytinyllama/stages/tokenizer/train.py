"""Train a SentencePiece vocabulary on counted words instead of lines.

SentencePiece keeps every line in memory, skips lines beyond a length, and sees each line start
as a word start, which in a document it is not. A piece never has a space after another
character, so nothing but the words and how often they occur can matter: we count them and hand
over the counts. Memory then follows the number of different words, and no line is too long.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from teenytinyllama.errors import UserError
from teenytinyllama.formats.conversations import BOS, EOS, IDS, PAD, ROLE_TOKENS, UNK
from teenytinyllama.recipe import TokenizerSettings

# A word with the spaces before it. Tabs and line ends stand alone: they are spelt in bytes.
_WORDS = re.compile(r" *[^ \t\n\r]+")
MAX_WORD_CHARACTERS = 1024  # longer ones (encoded files, tables) are cut
FEASIBLE = re.compile(r"Vocabulary size too high \(\d+\).*?<= (\d+)")


def count_words(texts: Iterable[str]) -> Counter[str]:
    """How often each word occurs, the space before it part of the word."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(_WORDS.findall(" " + text))
    return counts


def train(counts: Counter[str], settings: TokenizerSettings) -> bytes:
    """The SentencePiece model made of counted words; equal counts give equal bytes.

    Raises UserError where there are too few different words for the vocabulary asked.
    """
    if not counts:
        raise UserError(
            "tokenizer-no-text",
            "tokenizer",
            "the training documents hold no words",
            "look at the counts in corpus/manifest.json",
        )
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_rows(counts),
            model_writer=model,
            input_format="tsv",
            model_type=settings.model,
            vocab_size=settings.vocab_size,
            character_coverage=settings.character_coverage,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            add_dummy_prefix=False,
            max_sentence_length=8 * MAX_WORD_CHARACTERS,
            unk_id=IDS[UNK],
            bos_id=IDS[BOS],
            eos_id=IDS[EOS],
            pad_id=IDS[PAD],
            unk_piece=UNK,
            bos_piece=BOS,
            eos_piece=EOS,
            pad_piece=PAD,
            control_symbols=list(ROLE_TOKENS.values()),
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _explain(error, settings) from error
    proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
    # A word's space is part of it above; on text, the first word gets its space by this rule.
    proto.normalizer_spec.add_dummy_prefix = True
    trained: bytes = proto.SerializeToString(deterministic=True)
    return trained


def _rows(counts: Counter[str]) -> Iterator[str]:
    """Rows `word <tab> count`, most frequent first: an order that no hash seed changes."""
    for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        for start in range(0, len(word), MAX_WORD_CHARACTERS):
            yield f"{word[start : start + MAX_WORD_CHARACTERS]}\t{count}"


def _explain(error: RuntimeError, settings: TokenizerSettings) -> Exception:
    feasible = FEASIBLE.search(str(error))
    if feasible is None:
        return error
    most = int(feasible[1])
    return UserError(
        "vocabulary-too-large",
        "tokenizer.vocab_size",
        f"the corpus is too small for {settings.vocab_size:,} pieces; at most {most:,} fit",
        f"--set tokenizer.vocab_size={most}",
    )
