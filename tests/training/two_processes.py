"""Started by `torchrun`: trains the tiny job in a folder, and stops after the step given."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from tiny import context, job, settings

from teenytinyllama.errors import Interrupted
from teenytinyllama.recipe import CheckpointSettings
from teenytinyllama.training.loop import Loop

NUM_STEPS = 10


def main(folder: Path, stop_after: int) -> None:
    torch.set_num_threads(1)
    plan = settings(
        num_steps=NUM_STEPS,
        gradient_shards=2,
        micro_batch=1,
        checkpoints=CheckpointSettings(every_minutes=1000, every_steps=1),
    )
    loop = Loop(job(), plan, folder, context())
    assert loop.world == int(os.environ.get("WORLD_SIZE", "1")), loop.world
    after_step = loop._after_step

    def stop_there() -> None:
        if loop.progress.step == stop_after < NUM_STEPS:
            loop.stop_signal = "SIGTERM"
        after_step()

    loop._after_step = stop_there  # type: ignore[method-assign]
    try:
        loop.run()
    except Interrupted:
        return


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
