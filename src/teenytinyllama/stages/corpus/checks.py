"""What the corpus stage would fail on, known from the recipe and the files that it names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec

from teenytinyllama.errors import UserError, missing_extra
from teenytinyllama.languages import known_languages
from teenytinyllama.languages.language_codes import read_code
from teenytinyllama.regular_files import user_path
from teenytinyllama.settings.data_preparation import CorpusSettings, FilterSettings
from teenytinyllama.settings.datasets import Source, with_presets
from teenytinyllama.settings.recipe import Recipe
from teenytinyllama.stages.corpus.batches import WHOLE_KINDS, StepConfig
from teenytinyllama.stages.corpus.filters.quality import read_labels
from teenytinyllama.stages.corpus.filters.rule_filters import thresholds_for
from teenytinyllama.stages.corpus.readers.record_parser import LICENSE_MISSING
from teenytinyllama.stages.corpus.readers.sources import (
    InputFile,
    check_enough_documents,
    find_files,
)


def check(settings: CorpusSettings, recipe: Recipe) -> Iterator[UserError]:
    """Sources without files or licence, names that nothing has, libraries that are missing."""
    sources = with_presets(settings.sources, recipe.language, "corpus.sources")
    settings = settings.model_copy(update={"sources": sources})
    files: list[InputFile] = []
    try:
        files = find_files(settings, Counter())
        check_enough_documents(settings, files)
    except UserError as error:
        yield error
    for index, source in enumerate(sources):
        kinds = {file.kind for file in files if file.source == index}
        yield from _check_source(source, index, kinds)
        if source.language not in ("", recipe.language):
            where = f"corpus.sources.{index}.language"
            yield from _check_language(StepConfig(settings, recipe.language), source, where)
    yield from _check_filters(settings.filters, recipe.language)
    for task in settings.decontaminate:
        if task.path and not task.local_paths():
            yield UserError(
                "task-missing",
                f"corpus.decontaminate {task.name}",
                f'no file behind "{task.path}"',
                "give the folder of the task's validation and test files",
            )


def _check_source(source: Source, index: int, kinds: set[str]) -> Iterator[UserError]:
    # Records may name their own licence: only plain text cannot.
    if kinds and kinds <= WHOLE_KINDS and not source.license:
        yield UserError(
            LICENSE_MISSING,
            f"corpus.sources.{index}.license",
            f'the texts behind "{source.path}" have no licence',
            f'add license = "CC-BY-4.0" (or what holds; "unknown" cannot be published) to '
            f"corpus.sources.{index}",
        )
    needed = {"hub": "datasets"}.get(source.kind, "pyarrow" if "parquet" in kinds else "")
    if needed and find_spec(needed) is None:
        yield missing_extra(needed, "corpus")
    if kinds & {"web", "html"} and find_spec("trafilatura") is None:
        yield missing_extra("trafilatura", "web")
    if "document" in kinds:
        for library in ("pypandoc", "pypdfium2"):
            if find_spec(library) is None:
                yield missing_extra(library, "documents")
                break


def _check_language(config: StepConfig, source: Source, where: str) -> Iterator[UserError]:
    """A helper language needs a code that exists and, for rules that count, thresholds."""
    filters = config.for_source(source).settings.filters
    try:
        read_code(source.language)
        thresholds_for(filters, source.language)
    except UserError as error:
        if error.code == "language-code":
            yield UserError(error.code, where, error.what, 'give its ISO 639 code, such as "pt"')
        elif error.code == "language-without-filters":
            known = ", ".join(known_languages())
            fix = f'one of {known}, or corpus.filters.families = ["address", "language"]'
            yield UserError(error.code, where, error.what, fix)


def _check_filters(filters: FilterSettings, language: str) -> Iterator[UserError]:
    try:
        thresholds_for(filters, language)
    except UserError as error:
        yield error
    model = filters.language_model
    if "language" in filters.families:
        if model == "py3langid":
            if find_spec("py3langid") is None:
                yield missing_extra("py3langid", "corpus")
        elif not user_path(model).is_file():
            yield UserError(
                "language-model-missing",
                model,
                "corpus.filters.language_model names a file that is not there",
                'download GlotLID (cis-lmu/glotlid on the Hub), or language_model = "py3langid"',
            )
    if filters.words == "spacy" and find_spec("spacy") is None:
        yield missing_extra("spacy", "spacy")
    toxicity, quality = filters.toxicity, filters.quality_classifier
    for table, path in (
        ("toxicity", toxicity.clean_path if toxicity else ""),
        ("quality_classifier", quality.clean_path if quality else ""),
    ):
        if path and not user_path(path).is_file():
            yield UserError(
                "calibrate-unreadable",
                f"corpus.filters.{table}.clean_path",
                f'no file at "{path}"',
                "give a plain text file in UTF-8",
            )
    if quality and quality.labels_path:
        try:
            read_labels(quality)
        except UserError as error:
            yield error
