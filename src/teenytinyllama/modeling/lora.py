"""LoRA: train low-rank additions to the matrices, then merge them into the weights.

Only the additions (and modules that the caller names) are trained. The saved folder holds the
merged model, which every program loads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from teenytinyllama.errors import missing_extra
from teenytinyllama.settings.training import LoraSettings

# Names that classifiers of `transformers` give the layers after the body: their own, and the pooler
# of an encoder's first token. Causal models have a head for next tokens.
CLASSIFIER_HEADS = ("score", "classifier", "pre_classifier", "pooler")
HEADS = (*CLASSIFIER_HEADS, "lm_head")


def peft_parts() -> tuple[Any, Any]:
    """`LoraConfig` and `LoraModel` of `peft`. Raises UserError where it is not installed."""
    try:
        from peft import LoraConfig
        from peft.tuners.lora import LoraModel
    except ImportError as error:
        raise missing_extra("peft", "lora") from error
    return LoraConfig, LoraModel


def add_lora(
    model: Any, settings: LoraSettings, *, seed: int, trainable: Sequence[str] = ()
) -> Callable[[], None]:
    """Add low-rank matrices, in place, to every matrix outside the model's heads.

    Modules named in `trainable` (a new head) stay trainable where the model has them. Returns a
    function that merges the additions into the weights and removes them. Equal seeds give equal
    additions.
    """
    make_config, make_additions = peft_parts()
    # Whole names, because an encoder calls layers of its body and of its head both "dense".
    matrices = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and not _is_in(name, HEADS)
    ]
    config = make_config(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=matrices,
        lora_dropout=0.0,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        wrapped = make_additions(model, config, "default")
    for name, module in model.named_modules():
        if _is_in(name, trainable):
            module.requires_grad_(True)

    def merge() -> None:
        wrapped.merge_and_unload()
        model.requires_grad_(True)

    return merge


def _is_in(name: str, parts: Sequence[str]) -> bool:
    """Whether a module is one of these or inside one of them."""
    return any(part in parts for part in name.split("."))
