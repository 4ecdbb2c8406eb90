"""Stage report: build the report of a run from its manifests.

`index.html` opens anywhere without a network; `recipe.toml` reproduces the run; `model_card.md`,
`chat_card.md` and `dataset_card.md` are ready for the Hub; `tables/` and `plots/` hold the page's
tables and charts. Every number is read from a manifest or a file of the run, and a stage that has
not run is shown as such. It needs neither torch nor a plotting library.
"""

from __future__ import annotations

from pathlib import Path

from teenytinyllama.artifacts.manifest import STAGE_NAMES, write_atomically
from teenytinyllama.licenses import model_license
from teenytinyllama.redaction import redact
from teenytinyllama.settings.post_training import ReportSettings
from teenytinyllama.stages.interface import StageContext, StageResult
from teenytinyllama.stages.report.model_cards import (
    chat_card,
    dataset_card,
    licenses_of,
    model_card,
)
from teenytinyllama.stages.report.renderers import export, render
from teenytinyllama.stages.report.report_page import make_page
from teenytinyllama.stages.report.run_record import RunRecord, read_manifests
from teenytinyllama.stages.report.sections_run import recipe_toml


def run(
    *, settings: ReportSettings, context: StageContext, out_dir: Path, **stage_dirs: Path | None
) -> StageResult:
    """Write the report of all finished stages, whose folders are `corpus_dir` and so on.

    Raises UserError if the licences of the text clash.
    """
    record = RunRecord(
        name=context.run_name,
        language=context.language,
        energy=context.energy,
        stages=read_manifests({name: stage_dirs.get(f"{name}_dir") for name in STAGE_NAMES}),
    )
    page = make_page(record, settings)
    html = render(page)
    write_atomically(out_dir / "index.html", html)
    write_atomically(out_dir / "recipe.toml", redact(recipe_toml(record), for_others=True))
    num_files = export(page, out_dir) + _write_cards(record, settings, out_dir)
    return StageResult(
        counts={"stages_shown": len(record.stages), "files_exported": num_files},
        metrics={"page_bytes": len(html.encode("utf-8"))},
    )


def _write_cards(run: RunRecord, settings: ReportSettings, out_dir: Path) -> int:
    """Write the cards of finished stages and delete all others; returns the number written."""
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
