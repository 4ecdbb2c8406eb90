"""Settings of `pretrain`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from teenytinyllama.settings.base import Count, Fraction, Positive, Settings, check_whole_rows
from teenytinyllama.settings.training import (
    CheckpointSettings,
    ModelSettings,
    OptimizerSettings,
    ScheduleSettings,
)


class RepetitionSettings(Settings):
    """`[pretrain.repetition]`: sequences that repeat one passage, early in the training."""

    share: Fraction = 0.0
    """Share of repeating sequences in the first step; decays linearly to 0. Worth trying (1.0) for
    models of a few million parameters, which otherwise may never learn to copy from context."""
    until_step: Positive = 1000
    """First step without repeating sequences."""


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
    """Folder (or Hub id) of a Llama to start from, such as `runs/a/pretrain/step-0001000`, with its
    sizes. The embedding is adapted to another tokenizer. Empty: random weights."""
    attention: Literal["sdpa", "flash-attn"] = "sdpa"
    """`sdpa`: PyTorch's own, with FlashAttention where the GPU supports it; `flash-attn`: the
    separate package of that name, installed by hand."""
    sequence_length: Positive = 2048
    """Tokens of one row; at most `model.max_position_embeddings`."""
    tokens_per_step: Positive = 8192
    """Tokens behind one optimizer step, all devices together."""
    num_steps: Positive = 1000
    """Optimizer steps."""
    micro_batch: Count = 0
    """Rows of one forward pass on one device; 0: found automatically."""
    gradient_shards: Annotated[int, Field(ge=1, le=2)] = 1
    """2: gradients are summed in two fixed halves, so that one process and two give equal bits; one
    process then needs twice the memory for gradients."""
    precision: Literal["fp32", "bf16-mixed", "bf16"] = "bf16-mixed"
    """`bf16-mixed`: autocast with fp32 weights; `bf16`: weights too."""
    compile: bool | None = None
    """Use `torch.compile`; unset: on a GPU, and on a CPU with a C++ compiler for trainings of more
    than a few minutes. Another compiler, or none, changes the last bits of the result."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third slower."""
    isolate_documents: bool = False
    """Attention is limited to the same document within a row."""
    repetition: RepetitionSettings = RepetitionSettings()
    """Sequences that repeat themselves."""
    z_loss: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the z-loss: the squared log of the softmax denominator."""
    seed: Count = 0
    """Seed of the initial weights, of the order of sequences and of dropout."""
    log_every_steps: Positive = 10
    """Steps between lines in `metrics.jsonl`."""
    evaluate_every_steps: Count = 0
    """Steps between evaluations of held-out bits per byte; 0: at the end only."""
    sample_every_steps: Count = 0
    """Steps between continuations of `sample_prompts`; 0: at the end only."""
    sample_prompts: tuple[str, ...] = ()
    """Openings to continue; empty: those of the language."""
    trackers: tuple[Literal["wandb", "tensorboard", "trackio"], ...] = ()
    """Trackers that get the lines of `metrics.jsonl`; a failing one does not stop the training."""

    @model_validator(mode="after")
    def _fits(self) -> PretrainSettings:
        if self.sequence_length > self.model.max_position_embeddings:
            raise ValueError(
                f"sequence_length = {self.sequence_length} is longer than "
                f"model.max_position_embeddings = {self.model.max_position_embeddings}"
            )
        check_whole_rows(self.tokens_per_step, self.sequence_length)
        if self.repetition.share and self.isolate_documents:
            raise ValueError(
                f"repetition.share = {self.repetition.share} needs attention across documents; "
                "isolate_documents = true hides a passage from its repetitions"
            )
        return self
