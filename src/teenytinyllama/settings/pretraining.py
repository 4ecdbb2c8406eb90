"""Settings of `pretrain`."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

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


Chance = Annotated[float, Field(ge=0, lt=1)]


class DropoutSettings(Settings):
    """`[pretrain.dropout]`: what is dropped at random while the model trains; 0 drops nothing."""

    residual: Chance = 0.0
    """Of what attention and MLP add to the residual stream."""
    mlp: Chance = 0.0
    """Of the hidden layer of each MLP."""
    embedding: Chance = 0.0
    """Of the embedded tokens."""
    attention: Chance = 0.0
    """Of attention weights."""
    layers: Chance = 0.0
    """Stochastic depth: a row skips the last layer with this probability, earlier ones less."""


class AveragingSettings(Settings):
    """`[pretrain.averaging]`: averages of weights among which `keep_weights = "best"` chooses."""

    ema_decay: Chance = 0.0
    """Exponential moving average of every step's weights, such as 0.998; 0: none. One more copy of
    the weights in memory and in checkpoints."""
    last_epochs: Annotated[int, Field(ge=0, le=16)] = 0
    """Averages of the weights at the ends of the last 2 to this many epochs; 0: none. A copy of the
    weights for each."""

    @model_validator(mode="after")
    def _is_an_average(self) -> AveragingSettings:
        if self.last_epochs == 1:
            raise ValueError("last_epochs = 1 is no average: use 2 or more, or 0 for none")
        return self


class OverfittingSettings(Settings):
    """`[pretrain.overfitting]`: when held-out loss rises again."""

    margin: Annotated[float, Field(gt=0)] = 0.02
    """It is said once when held-out bits per byte are above their best by more than this share."""
    stop: bool = False
    """The training ends there. Its rate may not have fallen yet: use it with
    `checkpoints.keep_weights = "best"`."""


class EnsembleSettings(Settings):
    """`[pretrain.ensemble]`: several models of the recipe, which teach the final one."""

    members: Annotated[int, Field(ge=0, le=64)] = 0
    """Models trained one after another with the seeds after `seed`; 0: no ensemble. Each costs as
    much as the final model, which also reads the answers of all."""
    teacher_weight: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the final model's loss that is against the members' mean probabilities; the rest is
    against the text."""
    chained: bool = False
    """Each member after the first is taught by the one before it in the same way."""
    teachers: tuple[str, ...] = ()
    """Finished models of the same tokenizer, folders or Hub ids, that teach the final model as
    members do: another run's, or larger ones."""

    @model_validator(mode="after")
    def _is_an_ensemble(self) -> EnsembleSettings:
        if self.members == 1:
            raise ValueError("members = 1 is no ensemble: use 2 or more, or 0 for a single model")
        if self.chained and not self.members:
            raise ValueError("chained = true needs members: use members = 2 or more")
        return self


class PretrainCheckpointSettings(CheckpointSettings):
    """`[pretrain.checkpoints]`: when checkpoints are written, and which weights are kept."""

    keep_weights: Literal["last", "best"] = "last"
    """Weights of the finished model. `best`: of the last step, the best evaluation and the averages
    of `[pretrain.averaging]` those with the fewest bits per byte on held-out text."""


class PretrainSettings(Settings):
    """`[pretrain]`: sequences to a base model (paper 3.4, 3.5)."""

    say_how: ClassVar[frozenset[str]] = frozenset(
        {"micro_batch", "compile", "activation_checkpointing", "log_every_steps", "trackers"}
    )

    model: ModelSettings = ModelSettings()
    """Sizes of the model."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """Optimizer."""
    schedule: ScheduleSettings = ScheduleSettings()
    """Learning-rate schedule."""
    decay_in_last_phase: bool = False
    """The rate of a `wsd` schedule decays over the last of `pack.phases`, whatever
    `schedule.decay_fraction` says."""
    checkpoints: PretrainCheckpointSettings = PretrainCheckpointSettings()
    """Checkpoints."""
    start_from: str = ""
    """Folder (or Hub id) of a Llama to start from, such as `runs/a/pretrain/step-0001000`, with its
    sizes. The embedding is adapted to another tokenizer. Empty: random weights."""
    attention: Literal["auto", "sdpa", "flash-attn"] = "auto"
    """`auto`: the fastest of PyTorch's kernels on this GPU (cuDNN's on Hopper and newer, else
    FlashAttention; FlexAttention where documents are isolated); `sdpa`: PyTorch's own choice;
    `flash-attn`: the separate package of that name, installed by hand. The one that ran is
    `attention_kernel` in the manifest."""
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
    precision: Literal["fp32", "bf16-mixed", "fp16-mixed"] = "bf16-mixed"
    """`bf16-mixed`: autocast with fp32 weights; `fp16-mixed`: the same in fp16 with a loss scale,
    for GPUs without bfloat16 (T4, V100). Weights in bfloat16 would round small updates away. A CPU
    without kernels for bfloat16 (before AVX-512) computes `bf16-mixed` in fp32."""
    compile: bool | None = None
    """Use `torch.compile`; unset: on a GPU, and on a CPU with a C++ compiler for trainings of more
    than a few minutes. Another compiler, or none, changes the last bits of the result."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third slower."""
    isolate_documents: bool = False
    """Attention is limited to the same document within a row."""
    repetition: RepetitionSettings = RepetitionSettings()
    """Sequences that repeat themselves."""
    shuffle_documents: bool = False
    """Lay documents end to end in a new order in every epoch, instead of as they were packed."""
    dropout: DropoutSettings = DropoutSettings()
    """Dropout and stochastic depth."""
    mask_inputs: Chance = 0.0
    """Share of input tokens that are read as `<unk>`; all tokens are still predicted."""
    second_token_weight: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Weight of an auxiliary loss on the token after next, which the logged loss then includes.
    What it adds to the model is dropped from the saved one."""
    averaging: AveragingSettings = AveragingSettings()
    """Averages of weights."""
    ensemble: EnsembleSettings = EnsembleSettings()
    """Members that teach the final model."""
    overfitting: OverfittingSettings = OverfittingSettings()
    """What is said and done when held-out loss rises again."""
    z_loss: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the z-loss: the squared log of the softmax denominator."""
    seed: Count = 0
    """Seed of the initial weights, of the order of sequences and of dropout."""
    log_every_steps: Positive = 10
    """Steps between lines in `metrics.jsonl`."""
    evaluate_every_steps: Count = 0
    """Steps between evaluations of held-out bits per byte; 0: at the end only. Trainings of
    more than one epoch are also evaluated at the end of each."""
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
        if self.decay_in_last_phase and self.schedule.kind != "wsd":
            raise ValueError(
                f'decay_in_last_phase has no effect with schedule.kind = "{self.schedule.kind}"'
            )
        if self.repetition.share and self.isolate_documents:
            raise ValueError(
                f"repetition.share = {self.repetition.share} needs attention across documents; "
                "isolate_documents = true hides a passage from its repetitions"
            )
        return self

    @model_validator(mode="after")
    def _averages_are_used(self) -> PretrainSettings:
        decay, last = self.averaging.ema_decay, self.averaging.last_epochs
        if (decay or last) and self.checkpoints.keep_weights == "last":
            name = "ema_decay" if decay else "last_epochs"
            raise ValueError(
                f"averaging.{name} = {decay or last} does nothing with checkpoints.keep_weights = "
                '"last"; with "best" the average is kept where it scores best'
            )
        if decay and 1 / (1 - decay) > self.num_steps:
            most = math.floor(1e6 * (1 - 1 / self.num_steps)) / 1e6
            raise ValueError(
                f"averaging.ema_decay = {decay} averages about {1 / (1 - decay):,.0f} steps, the "
                f"training has {self.num_steps:,}; at most {most}"
            )
        return self
