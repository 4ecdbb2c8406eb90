"""Settings of `pretrain`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from teenytinyllama.settings.base import Count, Fraction, Positive, Settings
from teenytinyllama.settings.training import (
    CheckpointSettings,
    ModelSettings,
    OptimizerSettings,
    ScheduleSettings,
)


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
