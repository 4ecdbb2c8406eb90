"""Started by `torchrun`: trains the tiny task, once for each plan of the list it is given."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # torchrun starts this file by its path

from support.tiny_training import TinyTask, loop_of, settings
from teenytinyllama.errors import Interrupted
from teenytinyllama.settings.training import CheckpointSettings, OptimizerSettings

NUM_STEPS = 10
# What `accelerate launch` makes of recipes/accelerate/fsdp2.yaml; on a CPU it leaves FSDP out.
FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "LlamaDecoderLayer",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}


def train(
    folder: Path,
    *,
    strategy: str = "DDPStrategy",
    stop_after: int = NUM_STEPS,
    optimizer: str = "muon",
    poison: int | None = None,
    task: dict[str, Any] | None = None,
    **changes: Any,
) -> None:
    """Train in a folder to `stop_after` and stop there as a signal would."""
    torch.set_num_threads(1)
    plan = settings(
        num_steps=NUM_STEPS,
        checkpoints=CheckpointSettings(every_minutes=1000, every_steps=1),
        optimizer=OptimizerSettings(kind=optimizer, peak_learning_rate=1e-2),  # type: ignore[arg-type]
        **{"micro_batch": 1, **changes},
    )
    poisoned = {} if poison is None else {poison: float("nan")}
    loop = loop_of(folder, task=TinyTask(poison=poisoned, **(task or {})), plan=plan)
    assert loop.strategy.world_size == int(os.environ.get("WORLD_SIZE", "1"))
    assert type(loop.strategy).__name__ == strategy, type(loop.strategy)
    after_step = loop._after_step

    def stop_there() -> None:
        if loop.state.step == stop_after < NUM_STEPS:
            loop.stop_signal = "SIGTERM"
        after_step()

    loop._after_step = stop_there  # type: ignore[method-assign]
    try:
        loop.run()
    except Interrupted:
        return


if __name__ == "__main__":
    for plan in json.loads(sys.argv[1]):
        train(Path(plan.pop("folder")), **plan)
