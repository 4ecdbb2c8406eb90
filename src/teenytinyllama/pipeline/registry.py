"""Which rooms there are, in the order of the walk, and what each reads.

Nothing is imported for it: `ttl --help` lists the rooms before anything of theirs is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Room:
    """One room: its name on the command line, its folder in a run, and the rooms it reads.

    `revision` grows when the room's code makes other results from the same settings; finished
    work of an older revision is then stale. `keeps_checkpoints`: unfinished work is dear, and is
    never set aside unless the user says so. `many_processes`: helpers of `torchrun` join in.
    """

    name: str
    title: str
    folder: str
    reads: tuple[str, ...] = ()
    reads_if_there: tuple[str, ...] = ()
    keeps_checkpoints: bool = False
    many_processes: bool = False
    revision: int = 1

    @property
    def module(self) -> str:
        """Where its `run` is."""
        return f"teenytinyllama.stages.{self.name}"

    @property
    def uses_model(self) -> bool:
        """Whether it trains, scores or converts a Llama."""
        return "pretrain" in (self.name, *self.reads)


ROOMS: tuple[Room, ...] = (
    Room("corpus", "raw text -> clean, deduplicated, licensed documents", "corpus"),
    Room("tokenizer", "documents -> vocabulary", "tokenizer", ("corpus",)),
    Room("pack", "documents -> token sequences", "tokens", ("corpus", "tokenizer")),
    Room(
        "pretrain",
        "sequences -> base model",
        "pretrain",
        ("tokenizer", "pack"),
        keeps_checkpoints=True,
        many_processes=True,
    ),
    Room(
        "evaluate",
        "model -> scores",
        "scores",
        ("corpus", "tokenizer", "pack", "pretrain"),
        revision=2,
    ),
    Room(
        "finetune",
        "base model -> classifiers",
        "finetune",
        ("tokenizer", "pretrain"),
        keeps_checkpoints=True,
        revision=2,
    ),
    Room(
        "align",
        "base model -> chat model",
        "chat",
        ("tokenizer", "pretrain"),
        keeps_checkpoints=True,
    ),
    Room(
        "quantize",
        "model -> small files for laptops",
        "quantized",
        ("corpus", "tokenizer", "pretrain"),
        ("align",),
    ),
    Room(
        "report",
        "manifests -> one page",
        "report",
        (),
        ("corpus", "tokenizer", "pack", "pretrain", "evaluate", "finetune", "align", "quantize"),
    ),
)
BY_NAME = {room.name: room for room in ROOMS}
