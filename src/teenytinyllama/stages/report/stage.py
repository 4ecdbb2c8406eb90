"""STAGE report: manifests to one page that one can believe.

`report/index.html` opens anywhere, without a network; `recipe.toml` beside it makes the run again,
`model_card.md` and `dataset_card.md` are ready for the Hub, `tables/` and `plots/` are the page's.
The stage reads, and never runs: every number comes from a manifest or a file of the run, and what
is missing is called missing. It needs neither torch nor a plotting library.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from teenytinyllama.artifacts.manifest import StageResult, write_atomically
from teenytinyllama.licenses import model_license
from teenytinyllama.redaction import redact
from teenytinyllama.settings.post_training import ReportSettings
from teenytinyllama.stages.interface import StageContext
from teenytinyllama.stages.report.exports import export
from teenytinyllama.stages.report.live_report import page_of, serve
from teenytinyllama.stages.report.model_cards import (
    chat_card,
    dataset_card,
    licenses_of,
    model_card,
)
from teenytinyllama.stages.report.number_format import duration, is_number, percent, short
from teenytinyllama.stages.report.page_blocks import Page, Section
from teenytinyllama.stages.report.renderers import render
from teenytinyllama.stages.report.run_comparison import compare_page
from teenytinyllama.stages.report.run_record import RunRecord, read_manifests
from teenytinyllama.stages.report.sections_checkpoints import checkpoints, other_models
from teenytinyllama.stages.report.sections_run import (
    energy_section,
    headline,
    licences_section,
    recipe_toml,
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

__all__ = ["html_of", "make_page", "run", "serve"]


def run(  # noqa: PLR0913 (one folder per stage)
    *,
    settings: ReportSettings,
    context: StageContext,
    out_dir: Path,
    corpus_dir: Path | None = None,
    tokenizer_dir: Path | None = None,
    pack_dir: Path | None = None,
    pretrain_dir: Path | None = None,
    evaluate_dir: Path | None = None,
    finetune_dir: Path | None = None,
    align_dir: Path | None = None,
    quantize_dir: Path | None = None,
) -> StageResult:
    """Write the page of whatever stages are there; a stage that is not is shown as not run."""
    folders = {
        "corpus": corpus_dir,
        "tokenizer": tokenizer_dir,
        "pack": pack_dir,
        "pretrain": pretrain_dir,
        "evaluate": evaluate_dir,
        "finetune": finetune_dir,
        "align": align_dir,
        "quantize": quantize_dir,
    }
    record = RunRecord(
        name=context.run_name,
        language=context.language,
        usd_per_gpu_hour=context.energy.usd_per_gpu_hour,
        usd_per_kwh=context.energy.usd_per_kwh,
        country=context.energy.country,
        stages=read_manifests(folders),
    )
    page = make_page(record, settings)
    html = render(page)
    write_atomically(out_dir / "index.html", html)
    write_atomically(out_dir / "recipe.toml", redact(recipe_toml(record), for_others=True))
    num_files = export(page, out_dir) + _write_cards(record, settings, out_dir)
    return StageResult(
        counts={"stages_shown": len(record.stages), "files_beside_the_page": num_files},
        metrics={"page_bytes": len(html.encode("utf-8"))},
    )


def _write_cards(run: RunRecord, settings: ReportSettings, out_dir: Path) -> int:
    """The cards of what is there: no model, no model card. Raises UserError on a licence clash."""
    cards = {}
    if run.stage("pretrain") is not None:
        license_name = model_license(settings.license, licenses_of(run, "corpus", "align"))
        cards["model_card.md"] = model_card(run, license_name=license_name)
        if run.stage("align") is not None:
            cards["chat_card.md"] = chat_card(run, license_name=license_name)
    if run.stage("corpus") is not None:
        cards["dataset_card.md"] = dataset_card(run)
    for name in ("model_card.md", "chat_card.md", "dataset_card.md"):
        if name in cards:
            write_atomically(out_dir / name, redact(cards[name], for_others=True))
        else:
            (out_dir / name).unlink(missing_ok=True)
    return len(cards)


def html_of(run_dirs: Sequence[Path]) -> str:
    """The page of one run folder, finished or not, or of several beside each other."""
    if len(run_dirs) == 1:
        return render(page_of(run_dirs[0], make_page))
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
