"""Stage quantize: a model to small files for laptops."""

from teenytinyllama.stages.interface import Stage

STAGE = Stage(
    name="quantize",
    title="model -> small files for laptops",
    reads=("corpus", "tokenizer", "pretrain"),
    reads_if_there=("align",),
    revision=3,
    many_processes=True,
    loads_model=True,
    states_license=True,
    has_checks=True,
)
