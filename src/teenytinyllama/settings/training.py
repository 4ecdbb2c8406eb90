"""Settings shared by the training stages: sizes, optimizer, schedule, checkpoints, LoRA."""

from __future__ import annotations

from itertools import product
from typing import Annotated, Literal

from pydantic import Field, model_validator

from teenytinyllama.settings.base import Count, Fraction, Positive, Settings


class ModelSettings(Settings):
    """`[pretrain.model]`: the sizes of a Llama, under Hugging Face's names (paper Table 2)."""

    kind: Literal["llama", "qwen3"] = "llama"
    """`qwen3`: a Llama with RMSNorm on each head's queries and keys (QK-norm)."""
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
    max_position_embeddings: Annotated[int, Field(gt=0, le=1 << 24)] = 2048
    """Context length in tokens."""
    tie_word_embeddings: bool = False
    """Share one matrix between embedding and head."""
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
        if (hidden := self.hidden_size) // heads % 2:
            near = " or ".join(str(size) for size in (hidden - heads, hidden + heads) if size)
            raise ValueError(
                f"hidden_size = {hidden} gives each of {heads} heads {hidden // heads} numbers, "
                f"and rotary positions turn them in pairs; nearest: hidden_size = {near}"
            )
        if kv_heads and heads % kv_heads:
            raise ValueError(
                f"num_attention_heads = {heads} is not a multiple of "
                f"num_key_value_heads = {kv_heads}"
            )
        return self


class OptimizerSettings(Settings):
    """`[<stage>.optimizer]`: how gradients update the weights."""

    kind: Literal["adamw", "muon", "adafactor", "adamw-8bit"] = "adamw"
    """`muon`: torch.optim.Muon on hidden matrices, AdamW on embeddings, head and gains;
    `adamw-8bit`: moments of one byte, from bitsandbytes (the extra of that name)."""
    peak_learning_rate: Annotated[float, Field(gt=0)] = 6e-4
    """Peak learning rate of all weights that `muon_learning_rate` does not cover."""
    muon_learning_rate: Annotated[float, Field(gt=0)] = 3e-3
    """Peak learning rate of the hidden matrices with `muon`."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates of the first and second moments."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the root of the second moment."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Decoupled decay; applied to matrices only, never to RMSNorm gains. For many passes over
    little text 1 / (rate x steps per epoch) (docs/little-text.md)."""
    embedding_weight_decay: Annotated[float, Field(ge=0)] | None = None
    """Decay of embedding and head; unset: `weight_decay`."""
    weight_decay_schedule: Literal["constant", "learning-rate"] = "constant"
    """`learning-rate`: the decay rises and falls with the rate, as the same share of its value
    here. A step takes rate times decay from a weight in either case."""
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Gradients are clipped to this norm; 0: no clipping."""

    @model_validator(mode="after")
    def _decay_is_a_share(self) -> OptimizerSettings:
        rates = {"peak_learning_rate": self.peak_learning_rate}
        if self.kind == "muon":
            rates["muon_learning_rate"] = self.muon_learning_rate
        decays = {"weight_decay": self.weight_decay}
        if self.embedding_weight_decay is not None:
            decays["embedding_weight_decay"] = self.embedding_weight_decay
        for (rate_name, rate), (name, decay) in product(rates.items(), decays.items()):
            if rate * decay >= 1:
                raise ValueError(
                    f"{name} = {decay:g} with {rate_name} = {rate:g} takes {rate * decay:.3g} of a "
                    f"weight in a step; {name} must be below {1 / rate:g}"
                )
        return self


class ScheduleSettings(Settings):
    """`[<stage>.schedule]`: warmup and decay of the learning rate."""

    kind: Literal["cosine", "linear", "wsd"] = "wsd"
    """`wsd`: warm up, stay constant, decay linearly over the last `decay_fraction`."""
    warmup_steps: Count = 100
    """Steps of linear warmup."""
    decay_fraction: Fraction = 0.4
    """`wsd`: share of all steps in which the rate decays."""
    final_fraction: Fraction = 0.0
    """Final rate as a share of the peak."""


class CheckpointSettings(Settings):
    """`[<stage>.checkpoints]`: when checkpoints are written, and which are kept."""

    every_minutes: Annotated[float, Field(gt=0)] = 10.0
    """A rolling checkpoint at least this often; the two newest are kept."""
    every_steps: Count = 0
    """Also a rolling checkpoint every this many steps; 0: by time only."""
    permanent_every_steps: Count = 0
    """Keep every checkpoint at a multiple of this many steps (paper 3.5: 20 and 48); 0: none."""


class LoraSettings(Settings):
    """`[<stage>.lora]`: train low-rank additions to the matrices instead of all weights."""

    rank: Positive = 16
    """Rank of each addition."""
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """Additions are scaled by alpha / rank."""
