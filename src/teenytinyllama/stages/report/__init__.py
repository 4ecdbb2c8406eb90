"""Stage report: manifests to one page, model cards, tables and plots."""

from teenytinyllama.stages.interface import Stage

STAGE = Stage(
    name="report",
    title="build the report",
    reads_if_there=(
        "corpus",
        "tokenizer",
        "pack",
        "pretrain",
        "evaluate",
        "finetune",
        "align",
        "quantize",
    ),
    shows_manifests=True,
)
