"""Every setting of every stage, in pipeline order, with its unit and its default.

A recipe is a TOML file; its sections are the stages it walks. What is not written there has the
default given here and nowhere else. Unknown keys, wrong types and values out of range are errors
that name the file, the line and the field.
"""

from __future__ import annotations

import glob
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from teenytinyllama.errors import UserError, did_you_mean

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]


class Settings(BaseModel):
    """Base of all sections: frozen, no unknown key, no silent conversion, no infinity."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
    )


# --- sources: where text, conversations and labelled items come from --------------------------


class Source(Settings):
    """One place that text, conversations, labelled items or questions are read from."""

    kind: Literal["storybook", "files", "hub"]
    """`storybook`: made by this package from a seed; `files`: local files; `hub`: a Hugging Face
    dataset by id, or a local folder in the same layout."""
    name: str = ""
    """Name in counts and reports; default: the kind, the file's name, or the dataset's id."""
    preset: str = ""
    """`hub`: a source that the language knows by name (`languages/<code>/sources.toml`): its id,
    fields and licence. A `path` given beside it names a local copy."""
    path: str = ""
    """`files`: a file, a folder or a glob (`**` works). `hub`: a dataset's id or local folder."""
    license: str = ""
    """Licence of the text (SPDX). A `license` field on a line wins over this."""
    origin: str = ""
    """Where the text comes from: a URL or a citation, for the cards."""
    shape: Literal["text", "conversation"] = "text"
    """`conversation`: each record is a dialogue or an instruction with its answer, in one of the
    common layouts (`messages`, `conversations`, `instruction` and `output`, `prompt` and
    `completion`, `question` and `answer`)."""
    question_key: str = ""
    """Conversations in fields of other names: the field of what is asked ..."""
    context_key: str = ""
    """... of a text that the question is about, put after it ..."""
    answer_key: str = ""
    """... and of the answer; `answer{label}` takes the number from the field `label`."""
    only: dict[str, str] = {}
    """Records with these values in these fields are taken, others are dropped and counted."""
    text_key: str = "text"
    """Field that holds the text of one record (`.jsonl`, `.parquet`, Hub)."""
    id_key: str = "id"
    """Field that holds the id of one record, where there is one."""
    url_key: str = "url"
    """Field that holds the address of one record, where there is one."""
    config: str = ""
    """`hub`: configuration (subset) of the dataset."""
    split: str = "train"
    """`hub`: split to read."""
    revision: str = ""
    """`hub`: commit of the dataset, 40 hexadecimal digits, so that the text cannot change."""
    num_documents: Count = 4000
    """`storybook`: how many documents, conversations or items to make."""
    seed: Count = 0
    """`storybook`: seed of its world. One world per run: use the same seed in all stages."""

    @model_validator(mode="after")
    def _complete(self) -> Source:
        if self.kind != "storybook" and not self.path and not self.preset:
            raise ValueError(f'a source of kind "{self.kind}" needs a path')
        return self

    @property
    def title(self) -> str:
        """The name that counts and reports use."""
        return self.name or self.preset or (Path(self.path).name if self.path else self.kind)

    def selects(self, record: Mapping[str, Any]) -> bool:
        """Whether a record has the values that `only` asks for."""
        return all(str(record.get(key)) == value for key, value in self.only.items())

    def local_paths(self) -> list[Path]:
        """The files on this machine that the source names, sorted; empty where there are none."""
        return expand_path(self.path) if self.kind != "storybook" else []


def expand_path(pattern: str) -> list[Path]:
    """Files behind a path, a folder (all files below it) or a glob, sorted.

    Dot files are left out. Empty where nothing is there: the reader of the source says so.
    """
    path = Path(pattern).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        found = path.rglob("*")
    else:
        found = (Path(name) for name in glob.iglob(str(path), recursive=True))  # noqa: PTH207
    return sorted(f for f in found if f.is_file() and not f.name.startswith("."))


# --- the stages --------------------------------------------------------------------------------


class ToxicitySettings(Settings):
    """`[corpus.filters.toxicity]`: how hurtful each document is, by windows of sentences.

    Scores are turned so that higher is more toxic. Without `max_toxicity` and `clean_path` they
    are written down and drop nothing.
    """

    model: str = "nicholasKluge/ToxicityModelPT"
    """Hub id or folder of a sequence-classification model (the paper's by default), or labelled
    lines (`.jsonl` with `text` and `toxic`, 0 or 1): a classifier for one CPU core is trained."""
    toxic_label: str = ""
    """Label whose probability counts, for a model with several; default: the one named so."""
    higher_is_toxic: bool = False
    """For a model with one output: whether a high number is toxic. The paper's model is a reward:
    low is toxic."""
    max_toxicity: float | None = None
    """Documents above this score are dropped."""
    clean_path: str = ""
    """Clean text, from which `max_toxicity` is set where it is not given."""
    max_clean_dropped_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Share of the clean documents that may be above that score."""
    over: Literal["max", "mean"] = "max"
    """A document's score: of its worst window, or of all on average."""
    window_words: Positive = 40
    """Words of one window at least; whole sentences, up to twice as many."""
    micro_batch: Positive = 32
    """Windows of one forward pass."""


class FilterSettings(Settings):
    """`[corpus.filters]`: which documents stay. Thresholds are data of the language."""

    families: tuple[Literal["address", "language", "repetition", "fineweb", "quality"], ...] = (
        "address",
        "language",
        "repetition",
        "fineweb",
        "quality",
    )
    """Rules that judge: on the URL where there is one, on the language, Gopher's on repetition,
    FineWeb's on lines, Gopher's on quality. Their order is fixed; none: everything stays."""
    words: Literal["fast", "spacy"] = "fast"
    """What a word is: `fast`, our own rule; `spacy`: what datatrove counts (extra `spacy`). Each
    has thresholds of its own in `languages/<code>/filters.toml`."""
    thresholds: dict[str, float] = {}
    """Thresholds that differ from those of the language, by reason: `{ gopher_short_doc = 20 }`."""
    without: tuple[str, ...] = ()
    """Reasons whose rule is left out."""
    stop_words: tuple[str, ...] = ()
    """Words that nearly every text of the language has; empty: those of `languages/<code>/`."""
    language_model: str = "py3langid"
    """What tells the language of a text: `py3langid` (offline, extra `corpus`), or the path of a
    fastText model such as GlotLID (extra `glotlid`)."""
    c4: Literal["off", "lines", "sentences"] = "off"
    """C4's rules, which take lines out: `sentences` as C4 did, `lines` without its rule that a
    line must end in a mark, as FineWeb did."""
    blocked_domains: tuple[str, ...] = ()
    """Documents with an address in one of these domains are dropped: `exemplo.com`."""
    toxicity: ToxicitySettings | None = None
    """Scores every document that is left; off unless this table stands in the recipe."""
    max_boilerplate_fraction: Fraction = 1.0
    """A line that stands in more than this share of a source's documents is taken out of them;
    1: off."""

    def local_paths(self) -> list[Path]:
        """The files on this machine that the filters read, sorted: models and labelled text."""
        named = [self.language_model] if self.language_model != "py3langid" else []
        if self.toxicity is not None:
            named += [self.toxicity.model, self.toxicity.clean_path]
        return sorted({path for name in named if name for path in expand_path(name)})


class NearDuplicateSettings(Settings):
    """`[corpus.near_duplicates]`: of texts that are nearly equal the longest stays."""

    threshold: Annotated[float, Field(gt=0.3, le=1)] = 0.8
    """Jaccard index of two texts' word n-grams, 0 to 1, from which on they are copies."""
    ngram_words: Positive = 5
    """Words of one n-gram."""
    num_bands: Positive = 16
    """Bands of the MinHash signature: more find more pairs and cost more."""
    rows_per_band: Positive = 5
    """Hashes of one band. 16 bands of 5 find 99.8 % of the pairs at 0.8; candidates are compared
    in full, so a pair below the threshold is never dropped."""


class RepeatedParagraphSettings(Settings):
    """`[corpus.repeated_paragraphs]`: lines that stand in many documents are cut from the later."""

    max_documents: Positive = 10
    """Documents, in reading order, in which such a line stays."""
    min_characters: Positive = 40
    """Shorter lines are never cut."""


class MixSettings(Settings):
    """`[corpus.mix]`: how often each source is read in training; one of the three ways."""

    epochs: dict[str, Annotated[float, Field(ge=0)]] = {}
    """Passes over a source, by its name in the counts; a source that is not named gets one."""
    weights: dict[str, Annotated[float, Field(ge=0)]] = {}
    """Share of the training text, by source, in any unit; a source not named gets none. A source
    too small for its share is repeated up to `max_epochs`."""
    instruction_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of sources with `shape = "conversation"` in the training text, 0 to 1 (paper: 0.4)."""
    max_epochs: Annotated[float, Field(gt=0)] = 4.0
    """Most passes over any source: beyond four, repeated text teaches little."""

    @model_validator(mode="after")
    def _one_way(self) -> MixSettings:
        ways = [bool(self.epochs), bool(self.weights), self.instruction_share is not None]
        if sum(ways) > 1:
            raise ValueError("give one of epochs, weights and instruction_share")
        for name, epochs in self.epochs.items():
            if epochs > self.max_epochs:
                raise ValueError(f"{name}: {epochs} epochs are more than {self.max_epochs}")
        return self


class CorpusSettings(Settings):
    """`[corpus]`: raw text to clean documents."""

    sources: tuple[Source, ...] = Field(min_length=1)
    """Where the text comes from; one entry per source."""
    heldout_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """Share of documents, 0 to 1, kept out of training; chosen by a hash of the text."""
    max_quarantined_fraction: Fraction = 0.01
    """Stop with an error when more than this share of records cannot be read."""
    max_foreign_fraction: Fraction = 0.9
    """Stop with an error when more than this share of documents is in another language."""
    min_document_bytes: Count = 32
    """Documents shorter than this many UTF-8 bytes are dropped."""
    max_line_bytes: Annotated[int, Field(ge=1024, le=1 << 28)] = 16 << 20
    """Longest line that is read, in bytes; a longer one is quarantined unseen. A plain text file
    over this is cut between paragraphs."""
    unicode_form: Literal["NFC", "NFKC", "none"] = "NFC"
    """Unicode normal form of all text; `none` leaves mixed forms as they are."""
    filters: FilterSettings = FilterSettings()
    """Which documents stay."""
    decontaminate: tuple[Task, ...] = ()
    """Evaluation tasks whose texts must not be trained on: name and path of each."""
    decontaminate_evaluate: bool = True
    """Also the tasks of `[evaluate]` that have a `path` on this machine; those of the Hub only
    where `decontaminate` names a local copy."""
    decontamination_words: Annotated[int, Field(ge=5)] = 13
    """So many words in a row shared with a task's item are too many."""
    decontaminate_by: Literal["cut", "drop"] = "cut"
    """`cut`: take out the lines that the shared words stand in; `drop`: the whole document."""
    repeated_paragraphs: RepeatedParagraphSettings | None = RepeatedParagraphSettings()
    """How menus, footers and licences that stand everywhere are cut; not in the storybook."""
    mix: MixSettings = MixSettings()
    """How often each source is read in training."""
    replace_personal_data: bool = True
    """Put typed marks, as `[E-MAIL]` or `[CPF]`, in the place of personal data; not in the
    storybook, whose people are invented."""
    near_duplicates: NearDuplicateSettings | None = NearDuplicateSettings()
    """How near duplicates are found."""


class TokenizerSettings(Settings):
    """`[tokenizer]`: documents to a vocabulary (paper 3.3)."""

    vocab_size: Annotated[int, Field(ge=264)] = 32_000
    """Pieces in all: the 256 byte pieces and the special tokens included."""
    model: Literal["bpe", "unigram", "byte-level"] = "bpe"
    """How pieces are found: `bpe` and `unigram` are SentencePiece's (`unigram` trains several times
    longer); `byte-level` is BPE over bytes by the `tokenizers` library, as GPT-2 and Qwen have."""
    character_coverage: Annotated[float, Field(ge=0.98, le=1)] = 0.9999
    """Share of characters that get a piece of their own; the rest are spelt in bytes. Not for
    `byte-level`."""
    required_letters: str = ""
    """Letters that get a piece of their own however rare they are; empty: those of
    `languages/<code>/letters.toml`, where there is one. Not for `byte-level`."""
    max_training_bytes: Positive = 500_000_000
    """Text that the trainer reads at most, in bytes, sampled evenly over the documents."""
    measure_text: str = ""
    """A text file to measure too, as in the paper's Table 1; the figure is `table_1`."""
    measure_against: tuple[str, ...] = ()
    """Other tokenizers for Table 1: folders with `tokenizer.json`, or `.model` files."""


class PackSettings(Settings):
    """`[pack]`: documents to token sequences."""

    seed: Count = 0
    """Seed of the order in which documents are laid end to end."""
    order: Literal["shuffled", "best-fit"] = "shuffled"
    """`shuffled`: documents in random order, as in the paper; `best-fit`: documents chosen so
    that rows of `sequence_length` tokens end where a document ends, as far as that is possible."""
    sequence_length: Positive = 2048
    """`best-fit`: tokens of one row; give `pretrain.sequence_length`."""
    epochs: dict[str, Annotated[float, Field(ge=0, le=4)]] = {}
    """How often the training documents of a source are packed, by the source's name; 1 where it
    is not named. 0.5: half of them; 2.5: all twice and half of them a third time. At most 4,
    beyond which repeated text teaches little (Muennighoff et al., 2023)."""


class ModelSettings(Settings):
    """`[pretrain.model]`: the sizes of a Llama, under Hugging Face's names (paper Table 2)."""

    hidden_size: Positive = 768
    """Width of the residual stream."""
    intermediate_size: Positive = 3072
    """Width of the SwiGLU layer."""
    num_hidden_layers: Positive = 12
    """Decoder layers."""
    num_attention_heads: Positive = 12
    """Query heads."""
    num_key_value_heads: Count = 0
    """Key-value heads; 0 means as many as query heads (plain multi-head attention)."""
    max_position_embeddings: Positive = 2048
    """Context length in tokens."""
    tie_word_embeddings: bool = False
    """Use one matrix for embedding and head."""
    rope_theta: Annotated[float, Field(gt=0)] = 10_000.0
    """Base of the rotary position embedding."""
    rms_norm_eps: Annotated[float, Field(gt=0)] = 1e-6
    """Epsilon inside RMSNorm."""
    initializer_range: Annotated[float, Field(gt=0)] = 0.02
    """Standard deviation of the initial weights."""

    @model_validator(mode="after")
    def _divisible(self) -> ModelSettings:
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads or 0
        if self.hidden_size % heads:
            raise ValueError(
                f"hidden_size = {self.hidden_size} is not a multiple of "
                f"num_attention_heads = {heads}"
            )
        if kv_heads and heads % kv_heads:
            raise ValueError(
                f"num_attention_heads = {heads} is not a multiple of "
                f"num_key_value_heads = {kv_heads}"
            )
        return self


class OptimizerSettings(Settings):
    """`[<stage>.optimizer]`: how weights follow gradients."""

    kind: Literal["adamw", "muon", "adafactor", "adamw-8bit"] = "adamw"
    """`muon`: torch.optim.Muon on hidden matrices, AdamW on embeddings, head and gains;
    `adamw-8bit`: moments of one byte, from bitsandbytes (the extra of that name)."""
    peak_learning_rate: Annotated[float, Field(gt=0)] = 6e-4
    """Highest learning rate of AdamW (and of all weights unless `muon_learning_rate` applies)."""
    muon_learning_rate: Annotated[float, Field(gt=0)] = 3e-3
    """Highest learning rate of the hidden matrices under `muon`."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of the first and second moment."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the root of the second moment."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Decoupled decay; applied to matrices only, never to RMSNorm gains."""
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Gradients are scaled down to this norm; 0 switches clipping off."""


class ScheduleSettings(Settings):
    """`[<stage>.schedule]`: the learning rate's way from 0 to the peak and down again."""

    kind: Literal["cosine", "linear", "wsd"] = "wsd"
    """`wsd`: warm up, stay, fall linearly to zero over the last `decay_fraction`."""
    warmup_steps: Count = 100
    """Steps of linear rise."""
    decay_fraction: Fraction = 0.4
    """`wsd`: share of all steps in which the rate falls."""
    final_fraction: Fraction = 0.0
    """Rate at the end of the fall, as a share of the peak."""


class CheckpointSettings(Settings):
    """`[<stage>.checkpoints]`: what is kept, and when."""

    every_minutes: Annotated[float, Field(gt=0)] = 10.0
    """Rolling checkpoint for safety at least this often; the two newest are kept."""
    every_steps: Count = 0
    """Also a rolling checkpoint every this many steps; 0: by time only."""
    permanent_every_steps: Count = 0
    """Keep every checkpoint at a multiple of this many steps (paper 3.5: 20 and 48); 0: none."""


class RepetitionSettings(Settings):
    """`[pretrain.repetition]`: sequences that are one passage over and over, to begin with."""

    share: Fraction = 0.0
    """Share of the sequences of the first step; it falls linearly to none. Worth trying (1.0) for a
    model of some million parameters, which otherwise may never learn to look back."""
    until_step: Positive = 1000
    """Step from which on no sequence repeats."""


class PretrainSettings(Settings):
    """`[pretrain]`: sequences to a base model (paper 3.4, 3.5)."""

    model: ModelSettings = ModelSettings()
    """Sizes of the model."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """Optimizer."""
    schedule: ScheduleSettings = ScheduleSettings()
    """Learning-rate schedule."""
    checkpoints: CheckpointSettings = CheckpointSettings()
    """Checkpoints."""
    start_from: str = ""
    """Folder (or Hub id) of a Llama to go on from, such as `runs/a/pretrain/step-0001000`; its
    sizes are taken. Another tokenizer's embedding is transplanted. Empty: fresh weights."""
    attention: Literal["sdpa", "flash-attn"] = "sdpa"
    """`sdpa`: PyTorch's own, FlashAttention where the chip has it; `flash-attn`: the separate
    package of that name, to be installed by hand."""
    sequence_length: Positive = 2048
    """Tokens of one row; at most `model.max_position_embeddings`."""
    tokens_per_step: Positive = 8192
    """Tokens behind one optimizer step, all devices together."""
    num_steps: Positive = 1000
    """Optimizer steps."""
    micro_batch: Count = 0
    """Rows of one forward pass on one device; 0: found automatically."""
    gradient_shards: Annotated[int, Field(ge=1, le=2)] = 1
    """2: gradients are summed in two fixed halves, so that one process and two give the same
    bits; one process then needs memory for the gradients twice."""
    precision: Literal["fp32", "bf16-mixed", "bf16"] = "bf16-mixed"
    """`bf16-mixed`: autocast with fp32 weights; `bf16`: weights too."""
    compile: bool | None = None
    """Use `torch.compile`; unset: on a GPU, and on a CPU with a C++ compiler in trainings of more
    than a few minutes. Another compiler, or none, changes the last bits of a result."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third slower."""
    isolate_documents: bool = False
    """Attention sees only its own document inside a row."""
    repetition: RepetitionSettings = RepetitionSettings()
    """Sequences that repeat themselves."""
    z_loss: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the squared log-partition added to the loss."""
    seed: Count = 0
    """Seed of the initial weights, of the order of sequences and of dropout."""
    log_every_steps: Positive = 10
    """A line in `metrics.jsonl` every this many steps."""
    evaluate_every_steps: Count = 0
    """Held-out bits per byte every this many steps; 0: at the end only."""
    sample_every_steps: Count = 0
    """Continue `sample_prompts` every this many steps; 0: at the end only."""
    sample_prompts: tuple[str, ...] = ()
    """Openings to continue; empty: those of the language."""
    trackers: tuple[Literal["wandb", "tensorboard", "trackio"], ...] = ()
    """Mirrors of `metrics.jsonl`; none can stop the training."""

    @model_validator(mode="after")
    def _fits(self) -> PretrainSettings:
        if self.sequence_length > self.model.max_position_embeddings:
            raise ValueError(
                f"sequence_length = {self.sequence_length} is longer than "
                f"model.max_position_embeddings = {self.model.max_position_embeddings}"
            )
        if self.tokens_per_step % self.sequence_length:
            below = self.tokens_per_step // self.sequence_length * self.sequence_length
            near = [n for n in (below, below + self.sequence_length) if n]
            raise ValueError(
                f"tokens_per_step = {self.tokens_per_step} is not a multiple of "
                f"sequence_length = {self.sequence_length}; nearest: "
                + " or ".join(str(n) for n in near)
            )
        if self.repetition.share and self.isolate_documents:
            raise ValueError(
                f"repetition.share = {self.repetition.share} needs attention across documents; "
                "isolate_documents = true keeps a passage from its own repetitions"
            )
        return self


def _refuse_without_effect(
    of: Task | LabelledSet, kinds: tuple[str, ...], names: tuple[str, ...]
) -> None:
    """Raise ValueError for a setting that only other kinds of item read."""
    for name in names if of.kind not in kinds else ():
        value, default = getattr(of, name), type(of).model_fields[name].default
        if value != default:
            raise ValueError(
                f'{name} = {value} does nothing for kind "{of.kind}", whose items are all used; '
                f"it is for {' and '.join(kinds)}"
            )


class Task(Settings):
    """One labelled set, multiple-choice task, or suite of such tasks."""

    name: str
    """Name in scores and folders; for a `suite`, which one."""
    kind: Literal["storybook", "files", "hub", "suite", "cloze"] = "files"
    """Where the items come from. `suite`: several tasks at once, as `evaluate` lists them;
    `cloze`: made from the run's own held-out text, in any language: the last word of a sentence
    among four."""
    path: str = ""
    """`files`: a folder with train/validation/test in .jsonl, .json, .csv or .tsv, or one such file
    for all; `hub`: the dataset's id.
    `suite`: the folder that holds one folder per task; empty: everything from the Hub."""
    definition: str = ""
    """`evaluate`: a task file in lm-evaluation-harness's format: one of ours by name, or the path
    of a .yaml; default: the task's name."""
    num_fewshot: Annotated[int, Field(ge=-1)] = -1
    """`evaluate`: solved examples before each question; -1: as the task file says."""
    num_items: Count = 400
    """`storybook`, `cloze`: items to make (of each split)."""
    seed: Count = 0
    """`storybook`: seed of its world; `cloze`: seed of the choices."""

    @model_validator(mode="after")
    def _complete(self) -> Task:
        _refuse_without_effect(self, ("storybook", "cloze"), ("num_items", "seed"))
        return self

    def local_paths(self) -> list[Path]:
        """The files on this machine that the task names, sorted; empty where there are none."""
        named = [name for name in (self.path, self.definition) if name]
        return sorted({path for name in named for path in expand_path(name)})


class EvaluateSettings(Settings):
    """`[evaluate]`: model to scores (paper 4.1)."""

    tasks: tuple[Task, ...] = ()
    """Multiple-choice tasks, run through lm-evaluation-harness."""
    models: tuple[str, ...] = ()
    """Other models to score beside the run's own: Hugging Face folders or ids."""
    checkpoints: bool = False
    """Score every permanent checkpoint too: a score against tokens and energy (paper Figure 2)."""
    items_during_training: Count = 0
    """Items of each task to score whenever `pretrain` evaluates (`pretrain.evaluate_every_steps`);
    the accuracies go to `pretrain/metrics.jsonl`. 0: none."""
    max_heldout_documents: Count = 0
    """Held-out documents to score at most; 0: all."""
    max_bigram_tokens: Positive = 50_000_000
    """Training tokens that the bigram baseline counts at most."""
    batch_tokens: Positive = 2048
    """Tokens of one forward pass: speed and memory, not results. On a CPU a larger pass is slower:
    its tensors outgrow what the allocator keeps. On a GPU, 16384 and more."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the weights while scoring; softmax is always fp32."""
    reuse_answers: bool = True
    """Keep the answers to a task's requests under `<run>/.cache/evaluate/`, by weights, tokenizer,
    precision and requests, and use them when the same model is asked the same again."""
    check_overlap: bool = True
    """Read the training text once to count held-out documents and test items that stand in it."""


class LoraSettings(Settings):
    """`[<stage>.lora]`: train low-rank additions to the matrices instead of all weights."""

    rank: Positive = 16
    """Rank of each addition."""
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """Additions are scaled by alpha / rank."""


class LabelledSet(Settings):
    """One labelled set of `[finetune]`: texts or pairs of texts, with one label each."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    """Name in scores and folders."""
    kind: Literal["storybook", "files", "hub"] = "files"
    """Where the examples come from."""
    path: str = ""
    """`files`: a folder with one .jsonl, .csv, .tsv, .json or .parquet for each split, named as
    the split; `hub`: the dataset's id, or a local folder in the same layout."""
    config: str = ""
    """`hub`: configuration (subset) of the dataset."""
    revision: str = ""
    """`hub`: commit of the dataset, 40 hexadecimal digits, so that the texts cannot change."""
    text_columns: tuple[str, ...] = Field(("text",), min_length=1, max_length=2)
    """Column of the text, or the two columns of a pair."""
    label_column: str = "label"
    """Column of the label: a word, a number from 0, or true and false."""
    label_names: tuple[str, ...] = ()
    """Names for the labels, in the order of their numbers or of the alphabet; empty: as they
    stand in the data, or as a Hub dataset names its numbers."""
    train_split: Annotated[str, Field(min_length=1)] = "train"
    """Split to learn from."""
    validation_split: str = "validation"
    """Split that chooses the epoch; empty: a share of the train split."""
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """That share, where `validation_split` is empty; chosen by a hash of the text. A label too
    rare to be on both sides stays in train."""
    test_split: Annotated[str, Field(min_length=1)] = "test"
    """Split that is scored, once."""
    num_items: Positive = 2000
    """`storybook`: training examples; validation and test get a quarter each."""
    seed: Count = 0
    """`storybook`: seed of its world."""

    @model_validator(mode="after")
    def _complete(self) -> LabelledSet:
        if self.kind != "storybook" and not self.path:
            raise ValueError(f'a labelled set of kind "{self.kind}" needs a path')
        _refuse_without_effect(self, ("storybook",), ("num_items", "seed"))
        if self.test_split in (self.train_split, self.validation_split):
            raise ValueError(f'test_split = "{self.test_split}" is learnt from or chosen by')
        if self.validation_split == self.train_split:
            raise ValueError(
                f'validation_split = "{self.validation_split}" is learnt from; '
                'validation_split = "" cuts a share of it'
            )
        if self.label_column in self.text_columns and self.kind != "storybook":
            raise ValueError(f'label_column = "{self.label_column}" is read as a text too')
        return self

    def local_paths(self) -> list[Path]:
        """The files on this machine that the set names, sorted; empty where there are none."""
        return expand_path(self.path) if self.kind != "storybook" else []


class FinetuneSettings(Settings):
    """`[finetune]`: base model to classifiers, one per labelled set (paper Table 5)."""

    tasks: tuple[LabelledSet, ...] = Field(min_length=1)
    """Labelled sets; each gets a classifier of its own."""
    models: tuple[str, ...] = ()
    """Other models to fine-tune beside the run's own in the same way: Hugging Face folders or ids
    (`neuralmind/bert-base-portuguese-cased`)."""
    random_twin: bool = False
    """Also train the same sizes from random weights: what pre-training was worth."""
    num_epochs: Positive = 3
    """Passes over the training split."""
    examples_per_step: Positive = 16
    """Labelled texts behind one optimizer step."""
    learning_rate: Annotated[float, Field(gt=0)] = 4e-5
    """Peak learning rate; falls linearly to zero."""
    warmup_steps: Count = 0
    """Steps of linear rise before that."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled weight decay, matrices only."""
    language_model_weight: Annotated[float, Field(ge=0)] = 0.0
    """Goes on learning to predict the texts' next tokens, with this weight beside the labels' loss
    (GPT, Radford et al. 2018, section 3.2, has 0.5); the run's own model and its twin alone."""
    pooling: Literal["last", "mean"] = "last"
    """What the label is read from: the state of the last token, or `mean`: one more layer, which
    begins as the mean over all tokens. The run's own model and its twin alone."""
    choose_by: Literal["accuracy", "macro_f1"] = "accuracy"
    """What the epoch and the published seed are chosen by, on the validation split; `macro_f1`
    where one label is much more frequent than the others."""
    max_length: Annotated[int, Field(ge=8)] = 256
    """Tokens of one text at most, and no more than each model has positions for; the rest is cut
    off and counted."""
    precision: Literal["fp32", "bf16-mixed"] = "fp32"
    """As in `[pretrain]`."""
    seeds: tuple[Count, ...] = Field((0,), min_length=1)
    """One training per seed; mean and spread are reported."""
    lora: LoraSettings | None = None
    """Low-rank additions (extra `lora`), folded into the weights at the end; unset: all weights."""

    @model_validator(mode="after")
    def _one_reading(self) -> FinetuneSettings:
        if self.pooling == "mean" and self.language_model_weight:
            raise ValueError(
                f'pooling = "mean" reads labels alone, language_model_weight = '
                f"{self.language_model_weight} needs next tokens; set one of the two"
            )
        return self


class DpoSettings(Settings):
    """`[align.dpo]`: learning from preferences, after the conversations."""

    beta: Annotated[float, Field(gt=0)] = 0.1
    """How dear it is to move away from the reference: larger moves less."""
    num_epochs: Positive = 1
    """Passes over the pairs."""
    pairs_per_step: Positive = 16
    """Pairs behind one optimizer step."""
    optimizer: OptimizerSettings = OptimizerSettings(peak_learning_rate=1e-6, weight_decay=0.0)
    """Optimizer."""
    schedule: ScheduleSettings = ScheduleSettings(kind="linear", warmup_steps=0)
    """Learning-rate schedule."""


class AlignSettings(Settings):
    """`[align]`: base model to chat model (paper 4.3)."""

    sources: tuple[Source, ...] = Field(min_length=1)
    """Conversations to learn from: `messages`, ShareGPT, Alpaca, or prompt and completion."""
    num_epochs: Positive = 3
    """Passes over the conversations."""
    sequence_length: Positive = 2048
    """Tokens of one packed row; at most the model's context."""
    tokens_per_step: Positive = 8192
    """Tokens behind one optimizer step, prompts and padding included."""
    optimizer: OptimizerSettings = OptimizerSettings(peak_learning_rate=1e-5)
    """Optimizer."""
    schedule: ScheduleSettings = ScheduleSettings(kind="cosine", warmup_steps=1000)
    """Learning-rate schedule."""
    checkpoints: CheckpointSettings = CheckpointSettings()
    """Checkpoints."""
    heldout_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Share of conversations kept out of training; chosen by a hash of the first question."""
    max_quarantined_fraction: Fraction = 0.01
    """Stop with an error when more than this share of conversations cannot be used."""
    num_questions: Positive = 200
    """Unseen questions that the finished model answers, for the report."""
    max_answer_tokens: Positive = 64
    """Tokens of one such answer at most."""
    precision: Literal["fp32", "bf16-mixed", "bf16"] = "bf16-mixed"
    """As in `[pretrain]`."""
    lora: LoraSettings | None = None
    """Low-rank additions (extra `lora`), folded into the weights at the end; unset: all weights."""
    preferences: tuple[Source, ...] = ()
    """Pairs of a better and a worse answer (`prompt`, `chosen`, `rejected`) to learn from after
    the conversations, by DPO."""
    dpo: DpoSettings = DpoSettings()
    """How, where there are preferences."""
    seed: Count = 0
    """Seed of the order of rows."""

    @model_validator(mode="after")
    def _whole_rows(self) -> AlignSettings:
        if self.tokens_per_step % self.sequence_length:
            below = self.tokens_per_step // self.sequence_length * self.sequence_length
            near = [n for n in (below, below + self.sequence_length) if n]
            raise ValueError(
                f"tokens_per_step = {self.tokens_per_step} is not a multiple of "
                f"sequence_length = {self.sequence_length}; nearest: "
                + " or ".join(str(n) for n in near)
            )
        return self

    @model_validator(mode="after")
    def _preferences_have_their_own_fields(self) -> AlignSettings:
        for index, source in enumerate(self.preferences):
            for key in ("question_key", "context_key", "answer_key"):
                if getattr(source, key):
                    raise ValueError(
                        f"preferences.{index}.{key} is for conversations; "
                        "a preference has the fields prompt, chosen and rejected"
                    )
        return self


class QuantizeSettings(Settings):
    """`[quantize]`: model to small files (paper 4.1, 4.3)."""

    formats: tuple[Literal["f16", "q8_0", "q4_0", "q4_k_m", "awq"], ...] = ("q8_0",)
    """Files to write: GGUF for llama.cpp (`q4_k_m` needs the extra `llama-cpp`), or a folder of
    4-bit AWQ weights for vLLM and transformers (`awq` needs the extra `awq`)."""
    max_bits_per_byte_increase: Fraction = 0.03
    """Refuse a file whose held-out bits per byte grow by more than this share."""
    max_sample_tokens: Positive = 8192
    """Held-out tokens on which each file is compared with the original."""
    num_calibration_rows: Positive = 32
    """`awq`: rows of training text on which the scales are searched."""
    calibration_row_tokens: Positive = 512
    """`awq`: tokens of one such row."""


class ReportSettings(Settings):
    """`[report]`: manifests to one page."""

    title: str = ""
    """Heading of the page; default: the run's name."""
    license: str = ""
    """Licence of the model on its card (SPDX); empty: the most restrictive of its sources. One
    that is freer than a source allows is refused."""


class EnergySettings(Settings):
    """`[energy]`: what turns time into kilowatt-hours, carbon and money."""

    country: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "BRA"
    """Country whose grid supplies the power, ISO 3166 alpha-3: decides the carbon intensity."""
    usd_per_gpu_hour: Annotated[float, Field(ge=0)] = 0.0
    """Price of one hour of the machine in US dollars."""
    usd_per_kwh: Annotated[float, Field(ge=0)] = 0.0
    """Price of electricity in US dollars, where the machine is one's own."""


class Recipe(Settings):
    """A complete run: general settings, then one section per stage."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    """Name of the run and, by default, of its folder under `runs/`."""
    language: Annotated[str, Field(pattern=r"^[a-z]{2,3}$")] = "pt"
    """ISO 639 code of the language; `languages/<code>/` holds what is particular to it."""
    energy: EnergySettings = EnergySettings()
    """Energy and money."""
    corpus: CorpusSettings | None = None
    """Raw text to clean documents."""
    tokenizer: TokenizerSettings | None = None
    """Documents to a vocabulary."""
    pack: PackSettings | None = None
    """Documents to token sequences."""
    pretrain: PretrainSettings | None = None
    """Sequences to a base model."""
    evaluate: EvaluateSettings | None = None
    """Model to scores."""
    finetune: FinetuneSettings | None = None
    """Base model to classifiers."""
    align: AlignSettings | None = None
    """Base model to chat model."""
    quantize: QuantizeSettings | None = None
    """Model to small files."""
    report: ReportSettings | None = None
    """Manifests to one page."""


# --- reading -----------------------------------------------------------------------------------


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply `key=value` overrides, whose values are TOML (`a.b=3e-4`).

    Raises UserError with file, line and field for anything that does not fit.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        what = f"the recipe cannot be read ({error})"
        raise UserError("recipe-missing", str(path), what, "ls recipes/") from error
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(
            "recipe-syntax", str(path), f"not valid TOML: {error}", "correct that line"
        ) from error
    except RecursionError as error:
        what = "its brackets are nested too deep to be read"
        raise UserError("recipe-syntax", str(path), what, "write it flat") from error
    for override in overrides:
        _apply(data, override)
    try:
        # JSON mode: lists may become tuples, and nothing else is converted.
        recipe = Recipe.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        raise _explain(error, path, text, overrides) from error
    return _with_tasks_to_keep_out(recipe)


def _with_tasks_to_keep_out(recipe: Recipe) -> Recipe:
    """The recipe whose corpus stage knows the evaluation's local tasks, each by name and path."""
    corpus, evaluate = recipe.corpus, recipe.evaluate
    if corpus is None or evaluate is None or not corpus.decontaminate_evaluate:
        return recipe
    named = {task.path for task in corpus.decontaminate}
    # How a task is asked is not the corpus stage's business: another prompt needs no other corpus.
    more = tuple(
        Task(name=task.name, path=task.path)
        for task in evaluate.tasks
        if task.path and task.path not in named and expand_path(task.path)
    )
    tasks = (*corpus.decontaminate, *more)
    return recipe.model_copy(update={"corpus": corpus.model_copy(update={"decontaminate": tasks})})


def _apply(data: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(re.fullmatch(r"[A-Za-z0-9_-]+", part) for part in parts):
        raise UserError(
            "set-syntax", f"--set {override}", "expected key=value", "--set pretrain.num_steps=200"
        )
    try:
        parsed = tomllib.loads(f"value = {value.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()  # a bare word is text: --set language=gl
    here = data
    for part in parts[:-1]:
        here = here.setdefault(part, {})
        if not isinstance(here, dict):
            raise UserError(
                "set-syntax", f"--set {override}", f"{part} is not a section", "ttl docs"
            )
    here[parts[-1]] = parsed


def _explain(error: ValidationError, path: Path, text: str, overrides: Sequence[str]) -> UserError:
    """The first fault of a recipe as one line; the number of the others is said."""
    faults = error.errors()
    fault = faults[0]
    names = [str(part) for part in fault["loc"]]
    field = ".".join(names)
    from_set = any(field.startswith(o.partition("=")[0].strip()) for o in overrides)
    where = f"--set {field}" if from_set else f"{path}:{_line_of(text, names)}:{field}"
    more = f" ({len(faults) - 1} more faults after this one)" if len(faults) > 1 else ""
    if fault["type"] == "extra_forbidden":
        known = _fields_at(names[:-1])
        what = f'unknown setting, got "{names[-1]}"'
        return UserError("recipe-unknown-key", where, what + more, did_you_mean(names[-1], known))
    got = json.dumps(fault["input"], ensure_ascii=False, default=str)
    got = got if len(got) <= 80 else got[:77] + "..."
    message = fault["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    code = "recipe-missing-key" if fault["type"] == "missing" else "recipe-value"
    what = message if fault["type"] in ("missing", "value_error") else f"{message}, got {got}"
    return UserError(code, where, what + more, f"correct {field or 'the recipe'}")


def _fields_at(names: Sequence[str]) -> list[str]:
    """Setting names that a section allows, for `did you mean`."""
    model: type[BaseModel] = Recipe
    for name in names:
        if name.isdigit():
            continue
        options = [model.model_fields[name].annotation]
        while options:
            option = options.pop()
            if isinstance(option, type) and issubclass(option, BaseModel):
                model = option
                break
            options.extend(get_args(option))
    return list(model.model_fields)


def _line_of(text: str, names: Sequence[str]) -> int:
    """Line, from 1, where a setting stands in the file; its section's line, or 1, where absent.

    TOML readers of the standard library keep no positions, so the file is looked through.
    """
    section: list[str] = []
    best = 1
    wanted = [name for name in names if not name.isdigit()]
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*\[+\s*([^\]]+?)\s*\]+", line)
        if header:
            section = [part.strip(" \"'") for part in header[1].split(".")]
            if section == wanted[: len(section)]:
                best = number
            continue
        key = re.match(r"\s*([A-Za-z0-9_.\"'-]+)\s*=", line)
        if key:
            here = section + [part.strip(" \"'") for part in key[1].split(".")]
            if here == wanted[: len(here)]:
                best = number
            if here == wanted:
                return number
    return best
