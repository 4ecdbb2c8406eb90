"""Stage pretrain: token sequences to base model."""

from teenytinyllama.stages.interface import Stage

STAGE = Stage(
    name="pretrain",
    title="sequences -> base model",
    reads=("tokenizer", "pack"),
    keeps_checkpoints=True,
    many_processes=True,
    loads_model=True,
    takes_scorer=True,
    has_checks=True,
)
