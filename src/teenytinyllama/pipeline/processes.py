"""The processes that `torchrun` or `accelerate launch` started: one leads, the others help.

The leader walks, locks, decides and writes; the helpers join it inside the stages that train. A
walk of one process never loads torch for this.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

# Helpers wait while the leader evaluates or writes reports: far longer than a broken network.
PATIENCE = timedelta(days=1)


class Processes:
    """How many there are, which one this is, and a way to agree."""

    def __init__(self) -> None:
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self.is_leader = os.environ.get("RANK", "0") == "0"
        self._state: Any = None

    def lead(self, *, enter: bool) -> None:
        """Tell the helpers whether the stage that comes next is one to enter."""
        if self.count > 1:
            self._broadcast(enter)

    def follow(self) -> bool:
        """Wait for the leader's word on the stage that comes next."""
        return self._broadcast(None)

    def _broadcast(self, value: bool | None) -> bool:
        import torch
        from accelerate import PartialState
        from accelerate.utils import broadcast_object_list

        if self._state is None:
            self._state = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
        box = [value]
        broadcast_object_list(box, from_process=0)
        return bool(box[0])
