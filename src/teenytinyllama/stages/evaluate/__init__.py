"""Stage evaluate: model to scores.

Bits per byte of held-out documents first, beside a bigram model and two compressors; then tasks,
through lm-evaluation-harness, each with its error, its chance level and how much of it is in the
training text. One JSON per model and task:

    evaluate/base/heldout.json, evaluate/base/<task>.json, evaluate/<other model>/<task>.json
    evaluate/baselines.json, evaluate/overlap.json
"""

from teenytinyllama.stages.interface import Stage

STAGE = Stage(
    name="evaluate",
    title="model -> scores",
    reads=("corpus", "tokenizer", "pack", "pretrain"),
    revision=3,
    many_processes=True,
    loads_model=True,
    scorer_module="teenytinyllama.stages.evaluate.in_training",
    scorer_setting="items_during_training",
)
