"""Stage report: build the report of a run from its manifests.

`index.html` opens anywhere without a network; `recipe.toml` reproduces the run; `model_card.md`,
`chat_card.md` and `dataset_card.md` are ready for the Hub; `tables/` and `plots/` hold the page's
tables and charts. Every number is read from a manifest or a file of the run, and a stage that has
not run is shown as such. It needs neither torch nor a plotting library.
"""

from __future__ import annotations

from pathlib import Path

from teenytinyllama.artifacts.manifest import write_atomically
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
from teenytinyllama.stages.report.sections_run import (
    recipe_toml,
)


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
    """Write the report of all finished stages. Raises UserError if the licences clash."""
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
