"""Settings of the stages that use a base model: `evaluate` to `report`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from teenytinyllama.settings.base import Count, Fraction, Positive, Settings
from teenytinyllama.settings.datasets import LabelledSet, Source, Task
from teenytinyllama.settings.training import (
    CheckpointSettings,
    LoraSettings,
    OptimizerSettings,
    ScheduleSettings,
)


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
    """`[report]`: build the report."""

    title: str = ""
    """Heading of the page; default: the run's name."""
    license: str = ""
    """SPDX licence of the model on its card; empty: the most restrictive one of its sources. A
    licence that a source forbids is an error."""
