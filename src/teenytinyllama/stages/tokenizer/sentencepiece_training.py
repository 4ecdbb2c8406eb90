"""Train a SentencePiece vocabulary on word counts instead of lines.

SentencePiece keeps every line in memory, skips long lines, and reads every line start as a word
start, which it is not in a document. Since no token has a space after another character, only the
words and their counts matter: we count them and train on the counts. Memory then grows with the
number of different words, and no line is too long.
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
from teenytinyllama.artifacts.subword_tokenizer import SPACE_MARK
from teenytinyllama.errors import UserError
from teenytinyllama.languages import letters_of
from teenytinyllama.modeling.model_size import padded_vocab_size
from teenytinyllama.progress import Progress
from teenytinyllama.settings.data_preparation import TokenizerSettings

# A word with the spaces before it and the newlines after it, so that ".\n" can be one token.
# Tabs and carriage returns are left to the byte tokens: the trainer's input is tab-separated. So is
# U+2581, which the trainer would read as a space.
_WORDS = re.compile(rf" *[^ \t\n\r{SPACE_MARK}]+\n*|\n+")
# A word counts once per window of this many words (about 16 kB). Otherwise a term that one manual
# repeats on every line outweighs words that half of all documents use. Measured against plain
# counts on 166 MB with 32,000 tokens: 0.8 % fewer tokens on news outside the corpus, 0.2 % more on
# held-out text of the corpus.
WORDS_PER_WINDOW = 2_500
# Words of one window, then of two and so on, are dropped while at least this many words remain per
# token of the vocabulary: most are names and typos. Measured as above: 0.6 % fewer tokens, a third
# of the time and of the memory.
MIN_WORDS_PER_TOKEN = 8
# Measured memory per different word counted and trained on, and how many different words a text
# has (Heaps' law: fewer per byte in a larger text).
BYTES_PER_WORD_COUNTED, BYTES_PER_WORD_TRAINED = 150, 580
WORDS_AT_166_MB, HEAPS_EXPONENT = 1_430_000, 0.75
# Measured on 5 MB of Chinese without spaces: 60 for BPE, 150 for byte-level.
BYTES_PER_CHARACTER_TRAINED = 150
MAX_UNCOVERED_FRACTION = 0.001  # of letters without a token; more is a mistake in the settings
# Characters of special and byte tokens. If a unigram vocabulary lacked one, the `tokenizers`
# library would read a literal `<s>` as the special token.
_SPECIAL_CHARACTERS = "".join(sorted(set("".join(SPECIAL_TOKENS) + "<0x0123456789ABCDEF>")))
MAX_WORD_CHARACTERS = 1024  # longer ones (encoded files, tables) are split
LETTERS_NEEDED = re.compile(r"smaller than required_chars\. \d+ vs (\d+)")
FEASIBLE = re.compile(r"Vocabulary size too high \(\d+\).*?<= (\d+)")


class DocumentSample:
    """Documents spread evenly over a split, together at most `max_bytes`.

    The choice depends only on the sizes of the documents: no seed, the same on every machine.
    `sizes` of another sample of the split saves reading it again.
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
            # At any point at most max_bytes / num_bytes_read of the text so far is kept.
            if (self.num_bytes_kept + size) * self.num_bytes_read <= seen * max_bytes:
                self._kept[index] = 1
                self.num_documents_kept += 1
                self.num_bytes_kept += size

    def documents(self) -> Iterator[Document]:
        """The documents of the sample, in corpus order."""
        if not self.num_documents_kept:
            return
        documents = read_documents(self.corpus_dir, self.split)
        for keep, document in zip(self._kept, documents, strict=True):
            if keep:
                yield document

    def texts(self) -> Iterator[str]:
        """Their texts."""
        return (document.text for document in self.documents())


def with_progress(texts: Iterable[str], work: Progress) -> Iterator[str]:
    """The same texts; `work` advances by their megabytes."""
    for text in texts:
        yield text
        work.advance(len(text.encode("utf-8")) / 1e6)


def count_words(texts: Iterable[str]) -> Counter[str]:
    r"""The number of windows in which each word occurs.

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
    """The counts without the rarest words, as long as enough others remain."""
    wanted = MIN_WORDS_PER_TOKEN * vocab_size
    num_words_by_count = Counter(counts.values())
    num_kept, least = len(counts), 1
    while num_kept - num_words_by_count[least] >= wanted:
        num_kept -= num_words_by_count[least]
        least += 1
    return Counter({word: count for word, count in counts.items() if count >= least})


def estimated_memory_bytes(num_bytes: int) -> int:
    """Peak memory of counting and training on this much text, from measured rates.

    >>> round(estimated_memory_bytes(166_000_000) / 1e6)
    1044
    """
    words = WORDS_AT_166_MB * (num_bytes / 166e6) ** HEAPS_EXPONENT
    return int(words * (BYTES_PER_WORD_COUNTED + BYTES_PER_WORD_TRAINED))


def check_memory(num_bytes: int, free_bytes: int, words: Counter[str] | None = None) -> None:
    """Raise UserError, naming the size that fits, if training would not fit in memory.

    With the counted words their length decides. Where no spaces separate words each paragraph is
    one: hardly any occurs twice, and they are as long as the text.
    """
    needed, exponent = estimated_memory_bytes(num_bytes), HEAPS_EXPONENT
    if words is not None:
        needed, exponent = BYTES_PER_CHARACTER_TRAINED * sum(map(len, words)), 1.0
    if needed <= free_bytes:
        return
    fitting = int(num_bytes * (free_bytes / needed) ** (1 / exponent) * 0.9)
    raise UserError(
        "tokenizer-memory",
        "tokenizer.max_training_bytes",
        f"training on {num_bytes:,} bytes of text needs about {needed:,} bytes of memory, "
        f"{free_bytes:,} are free",
        f"--set tokenizer.max_training_bytes={fitting}",
    )


def check_letters(counts: Counter[str], tokens: Collection[str]) -> None:
    """Raise UserError if letters of the text got no token and would be encoded as bytes."""
    letters: Counter[str] = Counter()
    for word, count in counts.items():
        for letter in word:
            letters[letter] += count
    # Letters and combining marks: the vowel signs of Indic scripts are marks.
    letters = Counter({x: n for x, n in letters.items() if category(x)[0] in "LM"})
    total = sum(letters.values())
    known = {token for token in tokens if len(token) == 1}
    missing = {x: n for x, n in letters.most_common() if x not in known}
    if sum(missing.values()) > MAX_UNCOVERED_FRACTION * total:
        shown = ", ".join(f"{letter} {count:,}" for letter, count in list(missing.items())[:12])
        raise UserError(
            "letters-dropped",
            "tokenizer.character_coverage",
            f"{len(missing)} letters of the text have no token: {shown}",
            "--set tokenizer.character_coverage=0.9999",
        )


def with_letters(settings: TokenizerSettings, language: str) -> TokenizerSettings:
    """The settings with the letters of the language, if the recipe names none."""
    if settings.required_letters or settings.model == "byte-level":
        return settings
    return settings.model_copy(update={"required_letters": letters_of(language)})


def train_model(counts: Counter[str], settings: TokenizerSettings) -> bytes:
    """Train a SentencePiece model on word counts; equal counts give equal bytes.

    Raises UserError if there are too few different words for the vocabulary.
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
            + (_SPECIAL_CHARACTERS if settings.model == "unigram" else ""),
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
    # Trained words include the space before them; this adds it before the first word of a text.
    proto.normalizer_spec.add_dummy_prefix = True
    trained: bytes = proto.SerializeToString(deterministic=True)
    return trained


def _rows(counts: Counter[str]) -> Iterator[str]:
    """Rows `word <tab> count`, most frequent first: a deterministic order."""
    for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        for start in range(0, len(word), MAX_WORD_CHARACTERS):
            yield f"{word[start : start + MAX_WORD_CHARACTERS]}\t{count}"


def _explain(error: RuntimeError, settings: TokenizerSettings) -> Exception:
    needed = LETTERS_NEEDED.search(str(error))
    if needed is not None:
        return vocabulary_too_small(settings.vocab_size, int(needed[1]))
    feasible = FEASIBLE.search(str(error))
    if feasible is None:
        return error
    return vocabulary_too_large(settings.vocab_size, int(feasible[1]))


def vocabulary_too_small(vocab_size: int, needed: int) -> UserError:
    """The error if special tokens, bytes and single letters alone are more tokens."""
    return UserError(
        "vocabulary-too-small",
        "tokenizer.vocab_size",
        f"{vocab_size:,} tokens, and special tokens, bytes and the letters of the text alone are "
        f"{needed:,}",
        f"--set tokenizer.vocab_size={padded_vocab_size(needed + needed // 2)}",
    )


def vocabulary_too_large(vocab_size: int, most: int) -> UserError:
    """The error if the corpus has enough text for only `most` tokens."""
    return UserError(
        "vocabulary-too-large",
        "tokenizer.vocab_size",
        f"the corpus is too small for {vocab_size:,} tokens; at most {most:,} fit",
        f"--set tokenizer.vocab_size={most}",
    )
