"""The page of one run: every section in pipeline order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from teenytinyllama.settings.post_training import ReportSettings
from teenytinyllama.stages.report.number_format import duration, is_number, percent, short
from teenytinyllama.stages.report.page_blocks import Page, Section
from teenytinyllama.stages.report.renderers import render
from teenytinyllama.stages.report.run_comparison import compare_page
from teenytinyllama.stages.report.run_record import RunRecord, read_run
from teenytinyllama.stages.report.sections_checkpoints import checkpoints, other_models
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
    scores_section,
    small_files_section,
)
from teenytinyllama.stages.report.sections_text import (
    corpus_section,
    tokenizer_section,
    tokens_section,
)
from teenytinyllama.stages.report.sections_training import samples_section, training_section


def html_of(run_dirs: Sequence[Path]) -> str:
    """The page of one run folder, finished or not, or of several beside each other."""
    if len(run_dirs) == 1:
        return render(make_page(read_run(run_dirs[0]), ReportSettings()))
    return render(compare_page(run_dirs))


def make_page(run: RunRecord, settings: ReportSettings) -> Page:
    """All sections in pipeline order."""
    sections = (
        corpus_section(run),
        tokenizer_section(run),
        tokens_section(run),
        training_section(run),
        samples_section(run),
        _scores(run),
        classifiers_section(run),
        chat_section(run),
        small_files_section(run),
        energy_section(run),
        licences_section(run),
        versions_section(run),
        reproduce_section(run),
    )
    return Page(settings.title or run.name, _subtitle(run), run.language, headline(run), sections)


def _scores(run: RunRecord) -> Section:
    """The scores, with other models and checkpoints where they were scored too."""
    section, stage = scores_section(run), run.stage("evaluate")
    more = [*other_models(stage), *checkpoints(stage)] if stage else []
    return replace(section, blocks=[*section.blocks, *more])


def _subtitle(run: RunRecord) -> str:
    """One sentence on what there is, from the manifests."""
    missing = [name for name in ("corpus", "tokenizer", "pack", "pretrain") if not run.stage(name)]
    pretrain, evaluate = run.stage("pretrain"), run.stage("evaluate")
    if pretrain is None and "pretrain" in run.unfinished:
        return "In training now."
    if pretrain is None:
        return f"Not finished: {', '.join(missing)} not run."
    words = (
        f"A language model of {short(pretrain.count('parameters'))} parameters, language "
        f"“{run.language}”, trained from scratch on {short(pretrain.count('tokens'))} tokens in "
        f"{duration(pretrain.manifest.duration_s)}."
    )
    below = evaluate.metric("below_bigram_fraction") if evaluate else None
    if is_number(below):
        side = "under" if below >= 0 else "above"
        words += f" On text it never saw it is {percent(abs(below), 0)} {side} a bigram model."
    return words
