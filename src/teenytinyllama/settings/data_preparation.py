"""Settings of the stages that make training data: `corpus`, `tokenizer`, `pack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from teenytinyllama.settings.base import (
    MAX_INTEGER,
    Count,
    Fraction,
    Positive,
    Settings,
    expand_path,
)
from teenytinyllama.settings.datasets import Source, Task


class ToxicitySettings(Settings):
    """`[corpus.filters.toxicity]`: toxicity of each document, by windows of sentences.

    A higher score is more toxic. Without `max_toxicity` and `clean_path` scores are recorded and
    nothing is dropped.
    """

    model: str = "nicholasKluge/ToxicityModelPT"
    """Hub id or folder of a sequence-classification model (the paper's by default), or labelled
    lines (`.jsonl` with `text` and `toxic`, 0 or 1): a classifier for one CPU core is trained."""
    toxic_label: str = ""
    """Label whose probability is the score, for a model with several; default: the one named so."""
    higher_is_toxic: bool = False
    """For a model with one output: whether a high number is toxic. The paper's model is a reward:
    low is toxic."""
    max_toxicity: float | None = None
    """Documents above this score are dropped."""
    clean_path: str = ""
    """Clean text from which `max_toxicity` is computed where it is not given."""
    max_clean_dropped_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Share of the clean documents that may be above that score."""
    over: Literal["max", "mean"] = "max"
    """A document's score: of its worst window, or the mean of all."""
    window_words: Positive = 40
    """Minimum words of a window, which has whole sentences and at most twice as many words."""
    micro_batch: Positive = 32
    """Windows of one forward pass."""


class QualityCut(Settings):
    """What is kept of a source by quality. Without either setting scores are recorded only."""

    min_score: Annotated[float, Field(ge=0, le=5)] | None = None
    """Documents with a lower score are dropped."""
    kept_fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of each source's text, in bytes, that is kept, best first, of what the other filters
    and duplicates left. Not in datatrove's executors, which see one file at a time."""


class QualitySettings(QualityCut):
    """`[corpus.filters.quality_classifier]`: how much a document teaches, 0 to 5, learned from
    labelled texts, or from a clean sample against the sources as they are.
    """

    labels_path: str = ""
    """Labelled texts: a `.jsonl`, `.csv` or `.parquet` with a text and its score, 0 to 5; the first
    20,000 are read."""
    text_column: str = "text"
    """Column of the text, as FineWeb-Edu names it."""
    score_column: str = "score"
    """Column of the score, or of a list of several annotators' scores, whose mean is taken."""
    clean_path: str = ""
    """In place of labels: clean text, whose documents count as 5 and those of the sources as 0."""
    by_source: dict[str, QualityCut] = {}
    """Other cuts for single sources, by their names in the counts."""

    @model_validator(mode="after")
    def _one_origin(self) -> QualitySettings:
        if bool(self.labels_path) == bool(self.clean_path):
            raise ValueError("give one of labels_path and clean_path")
        return self

    def cut_for(self, source: str) -> QualityCut:
        """The cut of one source."""
        return self.by_source.get(source, self)


class FilterSettings(Settings):
    """`[corpus.filters]`: which documents are kept. Thresholds are data of the language."""

    families: tuple[Literal["address", "language", "repetition", "fineweb", "quality"], ...] = (
        "address",
        "language",
        "repetition",
        "fineweb",
        "quality",
    )
    """Families of rules: URL (where there is one), language, Gopher repetition, FineWeb quality of
    lines, Gopher quality. Their order is fixed; with none everything is kept."""
    words: Literal["fast", "spacy"] = "fast"
    """What a word is: `fast`, our own rule; `spacy`: what datatrove counts (extra `spacy`). Each
    has thresholds of its own in `languages/<code>/filters.toml`."""
    thresholds: dict[str, float] = {}
    """Thresholds that override those of the language, by reason: `{ gopher_short_doc = 20 }`."""
    without: tuple[str, ...] = ()
    """Reasons whose rules are off."""
    stop_words: tuple[str, ...] = ()
    """Words that nearly every text of the language has; empty: those of `languages/<code>/`."""
    language_model: str = "py3langid"
    """Language identification: `py3langid` (offline, extra `corpus`), or the path of a fastText
    model such as GlotLID (extra `glotlid`)."""
    c4: Literal["off", "lines", "sentences"] = "off"
    """C4's rules, which remove lines: `sentences` as in C4; `lines` as in FineWeb, without the rule
    that a line must end in punctuation."""
    blocked_domains: tuple[str, ...] = ()
    """Documents with a URL in one of these domains are dropped: `exemplo.com`."""
    toxicity: ToxicitySettings | None = None
    """Scores every remaining document; off unless this table is in the recipe."""
    quality_classifier: QualitySettings | None = None
    """Scores every remaining document by what it teaches; off unless this table is in the recipe.
    """
    max_boilerplate_fraction: Fraction = 1.0
    """Lines in more than this share of a source's documents are removed; 1: off."""

    def local_paths(self) -> list[Path]:
        """Local files that the filters read, sorted: models and labelled text."""
        named = [self.language_model] if self.language_model != "py3langid" else []
        if self.toxicity is not None:
            named += [self.toxicity.model, self.toxicity.clean_path]
        if self.quality_classifier is not None:
            named += [self.quality_classifier.labels_path, self.quality_classifier.clean_path]
        return sorted({path for name in named if name for path in expand_path(name)})


class NearDuplicateSettings(Settings):
    """`[corpus.near_duplicates]`: of near duplicates the longest is kept."""

    threshold: Annotated[float, Field(gt=0.3, le=1)] = 0.8
    """Minimum Jaccard similarity of two texts' word n-grams, 0 to 1, to be near duplicates; where
    spaces do not separate words (Chinese, Thai), of their aligned characters."""
    ngram_words: Positive = 5
    """Words of one n-gram."""
    num_bands: Positive = 16
    """Bands of the MinHash signature: more find more pairs and cost more."""
    rows_per_band: Positive = 5
    """Hashes of one band. 16 bands of 5 find 99.8 % of the pairs at 0.8; candidates are compared
    in full, so a pair below the threshold is never dropped."""


class RepeatedParagraphSettings(Settings):
    """`[corpus.repeated_paragraphs]`: lines of many documents are removed from later documents."""

    max_documents: Positive = 10
    """Documents, in reading order, that keep such a line."""
    min_characters: Positive = 40
    """Shorter lines are never removed."""


class MixSettings(Settings):
    """`[corpus.mix]`: how often each source is read in training; one of four ways."""

    epochs: dict[str, Annotated[float, Field(ge=0)]] = {}
    """Epochs of each source, by its name in the counts; 1 for a source that is not named."""
    weights: dict[str, Annotated[float, Field(ge=0)]] = {}
    """Share of the training text of each source, in any unit; 0 for a source that is not named. A
    source too small for its share is repeated up to `max_epochs`."""
    instruction_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of sources with `shape = "conversation"` in the training text, 0 to 1 (paper: 0.4)."""
    temperature: Annotated[float, Field(ge=1, le=100)] | None = None
    """Share of each source in proportion to its bytes to the power of 1 / `temperature`: 1 leaves
    the mix as it is, more raises small sources (with one source a language, as for XLM-R)."""
    max_epochs: Annotated[float, Field(gt=0)] = 4.0
    """Most epochs of any source: beyond four, repeated text teaches little."""

    @model_validator(mode="after")
    def _one_way(self) -> MixSettings:
        chosen = (self.instruction_share, self.temperature)
        ways = [bool(self.epochs), bool(self.weights), *(one is not None for one in chosen)]
        if sum(ways) > 1:
            raise ValueError("give one of epochs, weights, instruction_share and temperature")
        for name, epochs in self.epochs.items():
            if epochs > self.max_epochs:
                raise ValueError(f"{name}: {epochs} epochs are more than {self.max_epochs}")
        return self


class CorpusSettings(Settings):
    """`[corpus]`: raw text to clean documents."""

    sources: tuple[Source, ...] = Field(min_length=1)
    """Where the text comes from; one entry per source."""
    heldout_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """Share of documents, 0 to 1, held out of training; chosen by a hash of the text."""
    max_quarantined_fraction: Fraction = 0.01
    """Stop with an error when more than this share of records cannot be read."""
    max_foreign_fraction: Fraction = 0.9
    """Stop with an error when more than this share of documents is in another language."""
    min_document_bytes: Count = 32
    """Documents shorter than this many UTF-8 bytes are dropped."""
    max_line_bytes: Annotated[int, Field(ge=1024, le=1 << 28)] = 16 << 20
    """Longest line that is read, in bytes; longer ones are quarantined unread. A larger plain text
    file is split between paragraphs."""
    unicode_form: Literal["NFC", "NFKC", "none"] = "NFC"
    """Unicode normal form of all text; `none` leaves mixed forms as they are."""
    filters: FilterSettings = FilterSettings()
    """Which documents are kept."""
    decontaminate: tuple[Task, ...] = ()
    """Evaluation tasks whose texts must not be trained on: name and path of each."""
    decontaminate_evaluate: bool = True
    """Also decontaminate against tasks of `[evaluate]` with a local `path`; against tasks of the
    Hub only where `decontaminate` names a local copy."""
    decontamination_words: Annotated[int, Field(ge=5, le=MAX_INTEGER)] = 13
    """Length in words of a sequence shared with a task's item that counts as contamination."""
    decontaminate_by: Literal["cut", "drop"] = "cut"
    """`cut`: remove the lines with the shared words; `drop`: remove the whole document."""
    repeated_paragraphs: RepeatedParagraphSettings | None = RepeatedParagraphSettings()
    """How repeated menus, footers and licences are removed; not in the storybook."""
    mix: MixSettings = MixSettings()
    """How often each source is read in training."""
    replace_personal_data: bool = True
    """Replace personal data with typed marks such as `[E-MAIL]` or `[CPF]`; not in the storybook,
    whose people are invented."""
    near_duplicates: NearDuplicateSettings | None = NearDuplicateSettings()
    """How near duplicates are found."""


class TokenizerSettings(Settings):
    """`[tokenizer]`: train the vocabulary (paper 3.3)."""

    vocab_size: Annotated[int, Field(ge=264, le=1 << 24)] = 32_000
    """Number of tokens, with the 256 byte tokens and the special tokens."""
    model: Literal["bpe", "unigram", "byte-level"] = "bpe"
    """`bpe` and `unigram`: SentencePiece (`unigram` trains several times longer); `byte-level`: BPE
    over bytes by the `tokenizers` library, as in GPT-2 and Qwen."""
    character_coverage: Annotated[float, Field(ge=0.98, le=1)] = 0.9999
    """Fraction of characters that get their own token; all others are encoded as bytes. Not for
    `byte-level`."""
    required_letters: str = ""
    """Letters that get their own token however rare they are; empty: those of
    `languages/<code>/letters.toml`, if it exists. Not for `byte-level`."""
    max_training_bytes: Positive = 500_000_000
    """Bytes of text to train on at most, sampled evenly over the documents."""
    measure_text: str = ""
    """A text file on which to measure tokens per word too, as in the paper's Table 1; the metric
    is `table_1`."""
    measure_against: tuple[str, ...] = ()
    """Other tokenizers to compare there: folders with `tokenizer.json`, or `.model` files."""


class PhaseSettings(Settings):
    """`[[pack.phases]]`: a part of pre-training with a mix of its own, in order."""

    share: Annotated[float, Field(gt=0, le=1)]
    """Share of the training in this phase; those of all phases add up to 1."""
    weights: dict[str, Annotated[float, Field(ge=0)]]
    """Share of the phase's tokens of each source, by its name, in any unit; 0 for a source that is
    not named. Conversations are a source as any other."""

    @model_validator(mode="after")
    def _reads_something(self) -> PhaseSettings:
        if not sum(self.weights.values()):
            raise ValueError("weights: a phase needs a source with a weight above 0")
        return self


class PackSettings(Settings):
    """`[pack]`: documents to token sequences."""

    seed: Count = 0
    """Seed of the order of documents."""
    order: Literal["shuffled", "best-fit"] = "shuffled"
    """`shuffled`: random order, as in the paper; `best-fit`: an order in which most rows
    of `sequence_length` tokens end where a document ends."""
    sequence_length: Positive = 2048
    """Tokens of one row for `best-fit`; use the value of `pretrain.sequence_length`."""
    epochs: dict[str, Annotated[float, Field(ge=0)]] = {}
    """How often to pack the training documents of a source, by its name; 1 for all others. 0.5:
    half of them; 2.5: all twice and half of them a third time. Up to 4 are almost as good as new
    text (Muennighoff et al., 2023); more need more weight decay (docs/little-text.md). With
    `phases`: how often the source may be read at most."""
    phases: tuple[PhaseSettings, ...] = ()
    """Mixes that follow one another in training (docs/pipeline.md); empty: the same one throughout.
    A source goes on in a phase where the one before stopped: nothing is read again before all of it
    was read."""
    num_tokens: Count = 0
    """With `phases`: tokens of all phases; at least `pretrain.num_steps` x `tokens_per_step`."""

    @model_validator(mode="after")
    def _phases_add_up(self) -> PackSettings:
        total = sum(phase.share for phase in self.phases)
        if self.phases and abs(total - 1) > 1e-6:
            raise ValueError(f"phases: their shares add up to {total:.6g}, expected 1")
        if bool(self.phases) != bool(self.num_tokens):
            raise ValueError("phases and num_tokens are given together, or neither")
        return self
