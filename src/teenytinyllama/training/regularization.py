"""Dropout and stochastic depth for a Llama, as hooks: the model's class and file stay plain.

    embedding    of the embedded tokens
    attention    of attention weights
    mlp          of the hidden layer of each MLP
    residual     of what attention and MLP add to the residual stream
    layers       a row skips a layer, the last one with this probability, the first ones less often
                 (stochastic depth, Huang et al., 2016)

Random numbers come from torch's generator, which is seeded from (seed, step, micro-batch) before
each forward pass. Outside of training every hook returns what it was given.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from teenytinyllama.settings.pretraining import DropoutSettings


def add_dropout(model: Any, settings: DropoutSettings) -> None:
    """Let `model`, a Llama, drop as `settings` say while it trains. Before it is distributed."""
    if settings.embedding:
        model.model.embed_tokens.register_forward_hook(partial(_drop_output, settings.embedding))
    layers = model.model.layers
    for number, layer in enumerate(layers, start=1):
        layer.self_attn.attention_dropout = settings.attention
        if settings.mlp:
            layer.mlp.down_proj.register_forward_pre_hook(partial(_drop_input, settings.mlp))
        if settings.residual:
            for module in (layer.self_attn.o_proj, layer.mlp):
                module.register_forward_hook(partial(_drop_output, settings.residual))
        if settings.layers:
            chance = settings.layers * number / len(layers)
            layer.register_forward_hook(partial(_skip_layer, chance))


def _drop_output(chance: float, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return dropout(output, chance, module.training)


def _drop_input(chance: float, module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (dropout(inputs[0], chance, module.training),)


def _skip_layer(chance: float, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    """What a layer added (B, T, H): for some rows nothing, for the others more, to make up."""
    if not module.training:
        return output
    kept = torch.rand((len(output), 1, 1), device=output.device) >= chance
    scale = kept.to(output.dtype) / (1 - chance)
    return torch.lerp(inputs[0], output, scale.expand_as(output))
