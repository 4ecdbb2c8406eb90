"""The page of one run: every section in pipeline order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from teenytinyllama.settings.post_training import ReportSettings
from teenytinyllama.stages.report.number_format import duration, fewer_bits, is_number, short
from teenytinyllama.stages.report.page_blocks import Page, Section
from teenytinyllama.stages.report.renderers import render
from teenytinyllama.stages.report.run_comparison import compare_page
from teenytinyllama.stages.report.run_record import RunRecord, read_run
from teenytinyllama.stages.report.sections_checkpoints import checkpoint_blocks, model_comparison
from teenytinyllama.stages.report.sections_run import (
    energy_section,
    headline,
    licences_section,
    reproduce_section,
    versions_section,
)
from teenytinyllama.stages.report.sections_scores import (
    chat_section,
    classifiers_section,
    quantized_section,
    scores_section,
)
from teenytinyllama.stages.report.sections_text import (
    corpus_section,
    tokenizer_section,
    tokens_section,
)
from teenytinyllama.stages.report.sections_training import samples_section, training_section


def html_of(run_dirs: Sequence[Path]) -> str:
    """The page of one run folder, finished or not, or the comparison of several."""
    if len(run_dirs) == 1:
        return render(make_page(read_run(run_dirs[0]), ReportSettings()))
    return render(compare_page(run_dirs))


def make_page(run: RunRecord, settings: ReportSettings) -> Page:
    """The page of one run: all sections in pipeline order."""
    sections = (
        corpus_section(run),
        tokenizer_section(run),
        tokens_section(run),
        training_section(run),
        samples_section(run),
        _scores(run),
        classifiers_section(run),
        chat_section(run),
        quantized_section(run),
        energy_section(run),
        licences_section(run),
        versions_section(run),
        reproduce_section(run),
    )
    return Page(settings.title or run.name, _subtitle(run), run.language, headline(run), sections)


def _scores(run: RunRecord) -> Section:
    """The scores, then those of other models and of checkpoints."""
    section, stage = scores_section(run), run.stage("evaluate")
    more = [*model_comparison(stage), *checkpoint_blocks(stage)] if stage else []
    return replace(section, blocks=[*section.blocks, *more])


def _subtitle(run: RunRecord) -> str:
    """One or two sentences on the model, or on what is missing."""
    missing = [name for name in ("corpus", "tokenizer", "pack", "pretrain") if not run.stage(name)]
    pretrain, evaluate = run.stage("pretrain"), run.stage("evaluate")
    if pretrain is None and "pretrain" in run.unfinished:
        return "Training in progress."
    if pretrain is None:
        return f"Not finished: {', '.join(missing)} not run."
    words = (
        f"A language model with {short(pretrain.count('parameters'))} parameters, language "
        f"“{run.language}”, trained from scratch on {short(pretrain.count('tokens'))} tokens in "
        f"{duration(pretrain.manifest.duration_s)}."
    )
    below = evaluate.metric("below_bigram_fraction") if evaluate else None
    if is_number(below):
        words += f" On unseen text it needs {fewer_bits(below, 0)} than a bigram model."
    return words
