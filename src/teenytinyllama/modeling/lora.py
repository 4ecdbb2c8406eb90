"""LoRA: train small additions to the matrices, then fold them into the weights.

While training, only the additions (and what the caller keeps free) change; on export nothing of
them is left to see: the folder holds the plain model that every program loads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from teenytinyllama.errors import missing_extra
from teenytinyllama.settings.training import LoraSettings

# Where classifiers of every kind keep what reads the body's states: their own layers, and the one
# with which an encoder reads its first token. Causal models have a head for next tokens.
CLASSIFIER_HEADS = ("score", "classifier", "pre_classifier", "pooler")
HEADS = (*CLASSIFIER_HEADS, "lm_head")


def peft_parts() -> tuple[Any, Any]:
    """What `peft` offers for this. Raises UserError, with the extra to install, where it is not."""
    try:
        from peft import LoraConfig
        from peft.tuners.lora import LoraModel
    except ImportError as error:
        raise missing_extra("peft", "lora") from error
    return LoraConfig, LoraModel


def add_lora(
    model: Any, settings: LoraSettings, *, seed: int, free: Sequence[str] = ()
) -> Callable[[], None]:
    """Put low-rank additions beside every matrix outside the model's heads, in place.

    Modules named in `free` (a new head) stay trainable where the model has them. Returns what folds
    the additions into the weights and takes them away again. Equal seeds give equal additions.
    """
    make_config, make_additions = peft_parts()
    # Whole names: an encoder calls layers of its body and of its head alike "dense".
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
        if _is_in(name, free):
            module.requires_grad_(True)

    def fold() -> None:
        wrapped.merge_and_unload()
        model.requires_grad_(True)

    return fold


def _is_in(name: str, parts: Sequence[str]) -> bool:
    """Whether a module is one of these or stands in one of them."""
    return any(part in parts for part in name.split("."))
