"""Stage align: base model to chat model."""

from teenytinyllama.stages.interface import Stage

STAGE = Stage(
    name="align",
    title="base model -> chat model",
    reads=("tokenizer", "pretrain"),
    revision=2,
    keeps_checkpoints=True,
    many_processes=True,
    loads_model=True,
    has_checks=True,
)
