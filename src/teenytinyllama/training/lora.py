"""LoRA: train small additions to the matrices, then fold them into the weights.

While training, only the additions (and what the caller keeps free) change; on export nothing of
them is left to see: the folder holds the plain model that every program loads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from teenytinyllama.errors import missing_extra
from teenytinyllama.recipe import LoraSettings


def add_lora(
    model: Any, settings: LoraSettings, *, seed: int, free: Sequence[str] = ()
) -> Callable[[], None]:
    """Put low-rank additions beside every matrix of the decoder layers, in place.

    Modules named in `free` (a new head) stay trainable. Returns what folds the additions into the
    weights and takes them away again. Equal seeds give equal additions.
    """
    try:
        from peft import LoraConfig
        from peft.tuners.lora import LoraModel
    except ImportError as error:
        raise missing_extra("peft", "lora") from error
    matrices = sorted(
        {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and ".layers." in f".{name}"
        }
    )
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=matrices,
        lora_dropout=0.0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        wrapped = LoraModel(model, config, "default")
    for name in free:
        model.get_submodule(name).requires_grad_(True)

    def fold() -> None:
        wrapped.merge_and_unload()
        model.requires_grad_(True)

    return fold
