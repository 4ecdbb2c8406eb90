"""Stage finetune: base model to classifiers."""

from teenytinyllama.stages.interface import Stage

STAGE = Stage(
    name="finetune",
    title="base model -> classifiers",
    reads=("tokenizer", "pretrain"),
    revision=2,
    keeps_checkpoints=True,
    many_processes=True,
    loads_model=True,
    has_checks=True,
)
