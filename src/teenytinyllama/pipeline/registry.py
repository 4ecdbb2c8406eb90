"""Which stages there are, in the order of the walk, and what each reads.

Nothing is imported for it: `ttl --help` lists the stages before anything of theirs is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """One stage: its name on the command line, and so its folder in a run, and the stages it reads.

    `revision` grows when the stage's code makes other results from the same settings; finished
    work of an older revision is then stale. `keeps_checkpoints`: unfinished work is dear, and is
    never set aside unless the user says so. `many_processes`: helpers of `torchrun` join in.
    """

    name: str
    title: str
    reads: tuple[str, ...] = ()
    reads_if_there: tuple[str, ...] = ()
    keeps_checkpoints: bool = False
    many_processes: bool = False
    revision: int = 1

    @property
    def module(self) -> str:
        """Where its `run` is."""
        return f"teenytinyllama.stages.{self.name}.stage"

    @property
    def uses_model(self) -> bool:
        """Whether it trains, scores or converts a Llama."""
        return "pretrain" in (self.name, *self.reads)


STAGES: tuple[Stage, ...] = (
    Stage(
        "corpus",
        "raw text -> clean, deduplicated, licensed documents",
    ),
    Stage("tokenizer", "documents -> vocabulary", ("corpus",)),
    Stage("pack", "documents -> token sequences", ("corpus", "tokenizer")),
    Stage(
        "pretrain",
        "sequences -> base model",
        ("tokenizer", "pack"),
        keeps_checkpoints=True,
        many_processes=True,
    ),
    Stage(
        "evaluate",
        "model -> scores",
        ("corpus", "tokenizer", "pack", "pretrain"),
        revision=2,
    ),
    Stage(
        "finetune",
        "base model -> classifiers",
        ("tokenizer", "pretrain"),
        keeps_checkpoints=True,
        revision=2,
    ),
    Stage(
        "align",
        "base model -> chat model",
        ("tokenizer", "pretrain"),
        keeps_checkpoints=True,
    ),
    Stage(
        "quantize",
        "model -> small files for laptops",
        ("corpus", "tokenizer", "pretrain"),
        ("align",),
    ),
    Stage(
        "report",
        "manifests -> one page",
        (),
        ("corpus", "tokenizer", "pack", "pretrain", "evaluate", "finetune", "align", "quantize"),
    ),
)
BY_NAME = {stage.name: stage for stage in STAGES}
