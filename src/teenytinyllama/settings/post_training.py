"""Settings of the stages that use a base model: `evaluate` to `report`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from teenytinyllama.settings.base import Count, Fraction, Positive, Settings, check_whole_rows
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
    """Other models to score besides the run's own: Hugging Face folders or ids."""
    checkpoints: bool = False
    """Score every permanent checkpoint too: a score against tokens and energy (paper Figure 2)."""
    items_during_training: Count = 0
    """Items of each task to score whenever `pretrain` evaluates (`pretrain.evaluate_every_steps`);
    accuracies are written to `pretrain/metrics.jsonl`. 0: none."""
    max_heldout_documents: Count = 0
    """Most held-out documents to score; 0: all."""
    max_bigram_tokens: Positive = 50_000_000
    """Most training tokens that the bigram baseline counts."""
    batch_tokens: Positive = 2048
    """Tokens of one forward pass: affects speed and memory, not results. Larger is slower on a CPU,
    where its tensors outgrow what the allocator keeps. On a GPU, 16384 and more."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the weights while scoring; softmax is always fp32."""
    reuse_answers: bool = True
    """Cache the results of a task's requests in `<run>/.cache/evaluate/`, by weights, tokenizer,
    precision and requests."""
    check_overlap: bool = True
    """Read the training text once to count held-out documents and test items that occur in it."""


class FinetuneSettings(Settings):
    """`[finetune]`: base model to classifiers, one per labelled set (paper Table 5)."""

    tasks: tuple[LabelledSet, ...] = Field(min_length=1)
    """Labelled sets; each gets a classifier of its own."""
    models: tuple[str, ...] = ()
    """Other models to fine-tune in the same way besides the run's own: Hugging Face folders or ids
    (`neuralmind/bert-base-portuguese-cased`)."""
    random_twin: bool = False
    """Also train the same sizes from random weights, to show the effect of pretraining."""
    num_epochs: Positive = 3
    """Epochs over the training split."""
    examples_per_step: Positive = 16
    """Labelled texts behind one optimizer step."""
    learning_rate: Annotated[float, Field(gt=0)] = 4e-5
    """Peak learning rate; decays linearly to 0."""
    warmup_steps: Count = 0
    """Steps of linear warmup before that."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled weight decay, matrices only."""
    language_model_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of an additional next-token loss on the texts (0.5 in GPT, Radford et al. 2018,
    section 3.2); only for the run's own model and the random-init baseline."""
    pooling: Literal["last", "mean"] = "last"
    """What the label is predicted from: `last`, the state of the last token; `mean`, one more layer
    that starts as the mean over all tokens. Only for the run's own model and the random-init
    baseline."""
    choose_by: Literal["accuracy", "macro_f1"] = "accuracy"
    """Validation metric by which the epoch and the saved seed are chosen; `macro_f1` where one
    label is much more frequent than the others."""
    max_length: Annotated[int, Field(ge=8, le=1 << 24)] = 256
    """Most tokens of one text, and no more than each model has positions for; longer texts are
    truncated and counted."""
    precision: Literal["fp32", "bf16-mixed", "fp16-mixed"] = "fp32"
    """As in `[pretrain]`."""
    seeds: tuple[Count, ...] = Field((0,), min_length=1)
    """One training per seed; mean and spread are reported."""
    lora: LoraSettings | None = None
    """Train low-rank additions (extra `lora`), merged at the end; unset: train all weights."""

    @model_validator(mode="after")
    def _one_reading(self) -> FinetuneSettings:
        if self.pooling == "mean" and self.language_model_weight:
            raise ValueError(
                f'pooling = "mean" predicts labels alone, language_model_weight = '
                f"{self.language_model_weight} needs next tokens; set one of the two"
            )
        return self


class DpoSettings(Settings):
    """`[align.dpo]`: DPO on preferences, after the conversations."""

    beta: Annotated[float, Field(gt=0)] = 0.1
    """KL penalty: how strongly the model is held near the reference."""
    num_epochs: Positive = 1
    """Epochs over the pairs."""
    pairs_per_step: Positive = 16
    """Pairs behind one optimizer step."""
    optimizer: OptimizerSettings = OptimizerSettings(peak_learning_rate=1e-6, weight_decay=0.0)
    """Optimizer."""
    schedule: ScheduleSettings = ScheduleSettings(kind="linear", warmup_steps=0)
    """Learning-rate schedule."""


class AlignSettings(Settings):
    """`[align]`: base model to chat model (paper 4.3)."""

    sources: tuple[Source, ...] = Field(min_length=1)
    """Conversations to train on, in any layout that OpenAI, TRL, LLaMA-Factory and axolotl document
    (`docs/chat-data.md`)."""
    num_epochs: Positive = 3
    """Epochs over the conversations."""
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
    """Share of each source's bytes held out of training, by a hash of the conversation; raised, up
    to a tenth, to about 50 conversations."""
    max_quarantined_fraction: Fraction = 0.01
    """Stop with an error when more than this share of a source's conversations or preferences
    cannot be used."""
    num_questions: Positive = 200
    """Held-out questions that the finished model answers, for the report."""
    max_answer_tokens: Positive = 64
    """Most tokens of such an answer."""
    precision: Literal["fp32", "bf16-mixed", "fp16-mixed"] = "bf16-mixed"
    """As in `[pretrain]`."""
    lora: LoraSettings | None = None
    """Train low-rank additions (extra `lora`), merged at the end; unset: train all weights."""
    preferences: tuple[Source, ...] = ()
    """Pairs of a preferred and a rejected answer for DPO after the conversations, in any layout of
    `docs/chat-data.md` (`prompt`, `chosen`, `rejected`, ...)."""
    dpo: DpoSettings = DpoSettings()
    """DPO, where there are preferences."""
    seed: Count = 0
    """Seed of the order of rows."""

    @model_validator(mode="after")
    def _whole_rows(self) -> AlignSettings:
        check_whole_rows(self.tokens_per_step, self.sequence_length)
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
    """Stop with an error where held-out bits per byte grow by more than this share."""
    max_sample_tokens: Positive = 8192
    """Most held-out tokens on which each file is compared with the original."""
    num_calibration_rows: Positive = 32
    """`awq`: rows of training text for the search of scales."""
    calibration_row_tokens: Positive = 512
    """`awq`: tokens of such a row."""


class ReportSettings(Settings):
    """`[report]`: build the report."""

    title: str = ""
    """Title of the page; default: the run's name."""
    license: str = ""
    """SPDX licence of the model, on its card and in its GGUF files; empty: the most restrictive one
    of its sources. A licence that a source forbids is an error."""
