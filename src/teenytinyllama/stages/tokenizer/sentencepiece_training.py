"""Train a SentencePiece vocabulary on counted words instead of lines.

SentencePiece keeps every line in memory, skips lines beyond a length, and sees each line start
as a word start, which in a document it is not. A piece never has a space after another
character, so nothing but the words and how often they occur can matter: we count them and hand
over the counts. Memory then follows the number of different words, and no line is too long.
"""

from __future__ import annotations

import io
import re
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from unicodedata import category

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from teenytinyllama.artifacts.conversations import (
    BOS,
    EOS,
    PAD,
    ROLE_TOKENS,
    SPECIAL_IDS,
    SPECIAL_TOKENS,
    UNK,
)
from teenytinyllama.artifacts.documents import Document, Split, read_documents
from teenytinyllama.errors import UserError
from teenytinyllama.languages import letters_of
from teenytinyllama.progress import Progress
from teenytinyllama.settings.data_preparation import TokenizerSettings

# A word with the spaces before it and the line ends after it, so that ".\n" can be one piece.
# Tabs and carriage returns are left to the byte pieces: the trainer reads rows with tabs.
_WORDS = re.compile(r" *[^ \t\n\r]+\n*|\n+")
# A word counts once in this many words of running text (about 16 kB). A term that one manual
# repeats on every line would else outweigh words that half of all documents use. Measured on
# 166 MB, 32,000 pieces: 0.8 % fewer tokens on news that is not in the corpus, 0.2 % more on
# held-out text of the corpus itself, against plain counts.
WORDS_PER_WINDOW = 2_500
# Words of one window, then of two and so on, are left out while at least this many others remain
# per piece of the vocabulary: most are names and slips. Measured as above: 0.6 % fewer tokens, a
# third of the time and of the memory.
MIN_WORDS_PER_PIECE = 8
# Memory, measured: per different word counted, per word trained on, and how many different words
# so much text has (it grows slower than the text: Heaps' law).
BYTES_PER_WORD_COUNTED, BYTES_PER_WORD_TRAINED = 150, 580
WORDS_AT_166_MB, HEAPS_EXPONENT = 1_430_000, 0.75
MAX_LETTERS_DROPPED = 0.001  # share of letters without a piece; beyond it is a mistake
# What special tokens and byte pieces are spelt with. The `tokenizers` library would read a
# written-out `<s>` as the token wherever a unigram vocabulary could not spell it.
_SPELLING = "".join(sorted(set("".join(SPECIAL_TOKENS) + "<0x0123456789ABCDEF>")))
MAX_WORD_CHARACTERS = 1024  # longer ones (encoded files, tables) are cut
FEASIBLE = re.compile(r"Vocabulary size too high \(\d+\).*?<= (\d+)")


class Sample:
    """A choice of documents that the sizes decide alone: no seed, the same on every machine.

    `sizes` saves a reading of the split where another sample has done it.
    """

    def __init__(
        self, corpus_dir: Path, split: Split, max_bytes: int, *, sizes: array[int] | None = None
    ) -> None:
        self.corpus_dir, self.split = corpus_dir, split
        self.sizes = sizes or array(
            "q", (document.num_bytes for document in read_documents(corpus_dir, split))
        )
        self.num_documents_read, self.num_bytes_read = len(self.sizes), sum(self.sizes)
        self._kept = bytearray(len(self.sizes))
        self.num_documents_kept = self.num_bytes_kept = 0
        seen = 0
        for index, size in enumerate(self.sizes):
            seen += size
            # Keep up with the share of the text that has gone by, never ahead of it.
            if (self.num_bytes_kept + size) * self.num_bytes_read <= seen * max_bytes:
                self._kept[index] = 1
                self.num_documents_kept += 1
                self.num_bytes_kept += size

    def documents(self) -> Iterator[Document]:
        """The documents kept, in corpus order."""
        if not self.num_documents_kept:
            return
        documents = read_documents(self.corpus_dir, self.split)
        for keep, document in zip(self._kept, documents, strict=True):
            if keep:
                yield document

    def texts(self) -> Iterator[str]:
        """Their texts."""
        return (document.text for document in self.documents())


def watched(texts: Iterable[str], work: Progress) -> Iterator[str]:
    """The texts as they come, their megabytes counted by `work`."""
    for text in texts:
        yield text
        work.advance(len(text.encode("utf-8")) / 1e6)


def count_words(texts: Iterable[str]) -> Counter[str]:
    r"""In how many windows of running text each word occurs.

    >>> sorted(count_words(["um rato, um gato.\n"]).items())
    [(' gato.\n', 1), (' rato,', 1), (' um', 1)]
    """
    counts: Counter[str] = Counter()
    for text in texts:
        words = _WORDS.findall(" " + text)
        for start in range(0, len(words), WORDS_PER_WINDOW):
            counts.update(set(words[start : start + WORDS_PER_WINDOW]))
    return counts


def without_rare_words(counts: Counter[str], vocab_size: int) -> Counter[str]:
    """The counts without the rarest words, as far as enough others remain."""
    wanted = MIN_WORDS_PER_PIECE * vocab_size
    num_words_by_count = Counter(counts.values())
    num_kept, least = len(counts), 1
    while num_kept - num_words_by_count[least] >= wanted:
        num_kept -= num_words_by_count[least]
        least += 1
    return Counter({word: count for word, count in counts.items() if count >= least})


def estimated_memory_bytes(num_bytes: int) -> int:
    """Memory that counting and training on so much text takes at most, by measured rates.

    >>> round(estimated_memory_bytes(166_000_000) / 1e6)
    1044
    """
    words = WORDS_AT_166_MB * (num_bytes / 166e6) ** HEAPS_EXPONENT
    return int(words * (BYTES_PER_WORD_COUNTED + BYTES_PER_WORD_TRAINED))


def check_memory(num_bytes: int, free_bytes: int) -> None:
    """Raise UserError, with the sample that fits, where training would not fit in memory."""
    needed = estimated_memory_bytes(num_bytes)
    if needed <= free_bytes:
        return
    fitting = int(num_bytes * (free_bytes / needed) ** (1 / HEAPS_EXPONENT) * 0.9)
    raise UserError(
        "tokenizer-memory",
        "tokenizer.max_training_bytes",
        f"training on {num_bytes:,} bytes of text takes about {needed:,} bytes of memory, "
        f"{free_bytes:,} are free",
        f"--set tokenizer.max_training_bytes={fitting}",
    )


def check_letters(counts: Counter[str], pieces: Collection[str]) -> None:
    """Raise UserError where letters of the text got no piece and would be spelt in bytes."""
    letters: Counter[str] = Counter()
    for word, count in counts.items():
        for letter in word:
            letters[letter] += count
    # Letters and combining marks: the vowel signs of Indic scripts are marks.
    letters = Counter({x: n for x, n in letters.items() if category(x)[0] in "LM"})
    total = sum(letters.values())
    known = {piece for piece in pieces if len(piece) == 1}
    missing = {x: n for x, n in letters.most_common() if x not in known}
    if sum(missing.values()) > MAX_LETTERS_DROPPED * total:
        shown = ", ".join(f"{letter} {count:,}" for letter, count in list(missing.items())[:12])
        raise UserError(
            "letters-dropped",
            "tokenizer.character_coverage",
            f"{len(missing)} letters of the text have no piece of their own: {shown}",
            "--set tokenizer.character_coverage=0.9999",
        )


def with_letters(settings: TokenizerSettings, language: str) -> TokenizerSettings:
    """The settings with the letters of the language, where the recipe names none."""
    if settings.required_letters or settings.model == "byte-level":
        return settings
    return settings.model_copy(update={"required_letters": letters_of(language)})


def train_model(counts: Counter[str], settings: TokenizerSettings) -> bytes:
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
            required_chars=settings.required_letters
            + (_SPELLING if settings.model == "unigram" else ""),
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            add_dummy_prefix=False,
            max_sentence_length=8 * MAX_WORD_CHARACTERS,
            unk_id=SPECIAL_IDS[UNK],
            bos_id=SPECIAL_IDS[BOS],
            eos_id=SPECIAL_IDS[EOS],
            pad_id=SPECIAL_IDS[PAD],
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
