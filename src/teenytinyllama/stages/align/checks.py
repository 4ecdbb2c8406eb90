"""What chat training would fail on, known from the recipe and the files that it names."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from teenytinyllama.artifacts.decompression import COMPRESSED_SUFFIXES
from teenytinyllama.artifacts.records import RECORD_SUFFIXES, suffix_of
from teenytinyllama.errors import UserError, missing_extra
from teenytinyllama.settings.datasets import Source, with_presets
from teenytinyllama.settings.post_training import AlignSettings
from teenytinyllama.settings.recipe import Recipe
from teenytinyllama.training.schedule_check import check_epochs, check_warmup


def check(settings: AlignSettings, recipe: Recipe) -> Iterator[UserError]:
    """Sources without files, libraries that are missing, epochs and a warm-up without an end."""
    lists = (("align.sources", settings.sources), ("align.preferences", settings.preferences))
    for where, named in lists:
        sources = with_presets(named, recipe.language, where)
        for index, source in enumerate(sources):
            yield from _check_source(source, f"{where}.{index}")
    if settings.lora and find_spec("peft") is None:
        yield missing_extra("peft", "lora")
    yield from check_epochs("align", settings.num_epochs, settings.num_epochs)
    if most := most_steps(settings):
        yield from check_warmup("align", settings.schedule, most)


def _check_source(source: Source, where: str) -> Iterator[UserError]:
    if source.kind == "hub" and find_spec("datasets") is None:
        yield missing_extra("datasets", "corpus")
    if source.kind != "files":
        return
    paths = source.local_paths()
    if not paths:
        yield UserError(
            "source-empty",
            f"{where}.path",
            f'no file behind "{source.path}"',
            "give a file, a folder or a glob of .jsonl, .json, .csv, .tsv or .parquet",
        )
    other = [path.name for path in paths if suffix_of(path) not in RECORD_SUFFIXES]
    if other:
        yield UserError(
            "file-kind",
            f"{where}.path",
            f"{len(other)} files of a kind that holds no records ({', '.join(other[:3])})",
            f"give {', '.join(RECORD_SUFFIXES)}, packed or not, or a glob such as *.jsonl",
        )
    if any(suffix_of(path) == ".parquet" for path in paths) and find_spec("pyarrow") is None:
        yield missing_extra("pyarrow", "corpus")


def most_steps(settings: AlignSettings) -> int:
    """No fewer steps than the training takes; 0 where files do not show it.

    A token is a byte at least, and best fit leaves no two rows half empty.
    """
    paths = [path for source in settings.sources for path in source.local_paths()]
    if any(source.kind != "files" for source in settings.sources) or not paths:
        return 0
    if any(_is_packed(path) for path in paths):
        return 0
    num_bytes = sum(path.stat().st_size for path in paths)
    rows = 1 + 2 * num_bytes // settings.sequence_length
    rows_per_step = settings.tokens_per_step // settings.sequence_length
    return 1 + settings.num_epochs * rows // rows_per_step


def _is_packed(path: Path) -> bool:
    return path.suffix.lower() in COMPRESSED_SUFFIXES or suffix_of(path) == ".parquet"
