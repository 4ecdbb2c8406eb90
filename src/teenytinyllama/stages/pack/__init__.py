"""Stage pack: documents to token sequences."""

from teenytinyllama.stages.interface import Stage

STAGE = Stage(
    name="pack",
    title="documents -> token sequences",
    reads=("corpus", "tokenizer"),
    has_checks=True,
)
