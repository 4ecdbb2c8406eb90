"""What the training of an existing recipe takes: parameters, FLOPs, memory and disk.

Memory is its least: what no setting of the run can avoid. Arithmetic only, without torch.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from teenytinyllama.errors import UserError
from teenytinyllama.modeling.model_size import flops_per_token, num_parameters, padded_vocab_size
from teenytinyllama.settings.recipe import Recipe

PAPER_VOCAB_SIZE = 32_000
# A checkpoint: weights and two moments in fp32. Two rolling ones are kept, and `final/`.
CHECKPOINT_BYTES_PER_PARAMETER, ROLLING_CHECKPOINTS = 12, 2
# Weights, gradients and moments: the least any optimizer takes, by the weights' type.
LEAST_BYTES = {"fp32": 8, "bf16-mixed": 8, "bf16": 4}


@dataclass(frozen=True)
class Needs:
    """What the pre-training of a recipe takes."""

    parameters: int
    tokens: int
    flops: int
    disk_bytes: int
    least_memory_bytes: int


def needs_of(recipe: Recipe) -> Needs:
    """The needs of a recipe. Raises UserError where it trains nothing."""
    pretrain = recipe.pretrain
    if pretrain is None:
        what = "has no section [pretrain]"
        raise UserError("stage-not-in-recipe", recipe.name, what, "add [pretrain] to the recipe")
    vocab_size = recipe.tokenizer.vocab_size if recipe.tokenizer else PAPER_VOCAB_SIZE
    parameters = num_parameters(pretrain.model, padded_vocab_size(vocab_size))
    tokens = pretrain.num_steps * pretrain.tokens_per_step
    every = pretrain.checkpoints.permanent_every_steps
    kept = ROLLING_CHECKPOINTS + (pretrain.num_steps // every if every else 0)
    return Needs(
        parameters=parameters,
        tokens=tokens,
        flops=tokens * flops_per_token(pretrain.model, vocab_size, pretrain.sequence_length),
        disk_bytes=parameters * (CHECKPOINT_BYTES_PER_PARAMETER * kept + 4),
        least_memory_bytes=parameters * LEAST_BYTES[pretrain.precision],
    )


def available_memory_bytes() -> int:
    """Memory that a new process can use: the system's, or less under a container's limit."""
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        rows = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        available = int(rows["MemAvailable"].split()[0]) * 1024
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.is_file() and used.is_file() and limit.read_text().strip().isdigit():
        available = min(available, int(limit.read_text()) - int(used.read_text()))
    return max(available, 0)


def free_disk_bytes(folder: Path) -> int:
    """Free space on the disk where a folder is, or will be."""
    here = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    return shutil.disk_usage(here).free


def has_gpu() -> bool:
    """Whether this machine has a GPU that may train; asked of the system, not of torch."""
    return any(Path(name).exists() for name in ("/dev/nvidia0", "/dev/kfd", "/System/Library"))
