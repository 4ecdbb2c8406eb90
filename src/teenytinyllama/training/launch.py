"""Start the strategy that this process was launched for: alone, DDP, FSDP2 or DeepSpeed.

The recipe says what is trained; the launcher decides how the work is distributed (`torchrun`, or
`accelerate launch` with a file of recipes/accelerate/). The results are the same.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    FullyShardedDataParallelPlugin,
)

from teenytinyllama import hardware
from teenytinyllama.errors import UserError
from teenytinyllama.modeling.causal_attention import isolate_texts
from teenytinyllama.training.distributed import DDPStrategy, DeepSpeedStrategy, FSDPStrategy
from teenytinyllama.training.micro_batches import recompute_activations
from teenytinyllama.training.task import TrainSettings, TrainTask


def start_strategy(task: TrainTask, settings: TrainSettings) -> DDPStrategy:
    """Put a task's model on this process's device, distributed as the launcher asks for.

    Raises UserError for what the device or the launcher's settings do not allow.
    """
    # Before the GPU is first used: memory that rows of other lengths left in pieces can be joined.
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision="no",
        # Gradients need no second copy in DDP's buckets.
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )
    device: torch.device = accelerator.device
    hardware.check_precision(settings.precision, device)
    task.loss.to(device)
    if settings.activation_checkpointing:
        recompute_activations(task.model)
    if task.isolates_texts:
        isolate_texts(task.model, device)
    cpu_support = None
    if device.type == "cpu":
        from teenytinyllama.training import cpu  # a GPU needs none of it

        cpu_support = cpu.prepare(task, settings)
    task.loss.train()
    strategy = DDPStrategy
    if accelerator.num_processes > 1 and _is_requested("ACCELERATE_USE_FSDP"):
        _use_fsdp2(accelerator, task.model)
        strategy = FSDPStrategy
    elif accelerator.num_processes > 1 and _is_requested("ACCELERATE_USE_DEEPSPEED"):
        _check_zero_stage()
        strategy = DeepSpeedStrategy
    return strategy(accelerator, task.loss, settings, cpu_support)


def _is_requested(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() == "true"


def _use_fsdp2(accelerator: Accelerator, model: Any) -> None:
    state = accelerator.state
    if state.distributed_type == DistributedType.MULTI_CPU:
        # Accelerate 1.15 offers FSDP on GPUs only; PyTorch's runs on CPUs too, where it is tested.
        state.fsdp_plugin = FullyShardedDataParallelPlugin()
        state.distributed_type = DistributedType.FSDP
    if state.fsdp_plugin.fsdp_version != 2:
        raise UserError(
            "fsdp-version",
            "the launcher's fsdp_version",
            f"is {state.fsdp_plugin.fsdp_version}, only 2 works here",
            "--config_file recipes/accelerate/fsdp2.yaml",
        )
    # The model's own layers: the launcher's file names those of a Llama.
    state.fsdp_plugin.transformer_cls_names_to_wrap = sorted(model._no_split_modules)


def _check_zero_stage() -> None:
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    if stage != "2":
        raise UserError(
            "zero-stage",
            "the launcher's zero_stage",
            f"is {stage}, only 2 works here",
            "--config_file recipes/accelerate/zero2.yaml, or fsdp2.yaml for sharded weights",
        )
