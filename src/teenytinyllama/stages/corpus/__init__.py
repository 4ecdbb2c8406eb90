"""Stage corpus: raw text to clean, deduplicated, licensed documents."""

from teenytinyllama.stages.interface import Stage

STAGE = Stage(
    name="corpus",
    title="raw text -> clean, deduplicated, licensed documents",
    revision=4,
    has_checks=True,
)
