"""Model, chat and dataset cards in the Hub's format, built from manifests only.

Names that come from the run (sources, tasks) are escaped for Markdown; texts of the corpus or the
model are not shown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from teenytinyllama import licenses
from teenytinyllama.licenses import hub_name, model_license, terms_of
from teenytinyllama.stages.report.number_format import NOT_RUN, count, duration, is_number, percent
from teenytinyllama.stages.report.page_blocks import StatRow, Table
from teenytinyllama.stages.report.run_record import FinishedStage, RunRecord
from teenytinyllama.stages.report.sections_run import energy_section, stage_kwh
from teenytinyllama.stages.report.sections_scores import (
    chat_section,
    classifiers_section,
    interval_of,
    quantized_section,
    scores_section,
    tasks_of,
    verdict,
)
from teenytinyllama.stages.report.sections_text import corpus_section, tokenizer_section

# The Hub's size categories, by number of rows.
SIZE_CATEGORIES = (
    (1e3, "n<1K"),
    (1e4, "1K<n<10K"),
    (1e5, "10K<n<100K"),
    (1e6, "100K<n<1M"),
    (1e7, "1M<n<10M"),
    (1e8, "10M<n<100M"),
    (1e9, "100M<n<1B"),
)
Lines = Iterator[str]


def licenses_of(run: RunRecord, *stages: str) -> list[str]:
    """Licences of the text used by these stages: of kept documents and conversation sets."""
    found: list[str] = []
    for name in stages:
        stage = run.stage(name)
        if stage is not None:
            found += licenses.licenses_of(stage.manifest.counts, stage.manifest.recipe)
    return found


def model_card(run: RunRecord, *, license_name: str) -> str:
    """`model_card.md`: the README.md of the base model on the Hub."""
    pretrain = run.stage("pretrain")
    assert pretrain is not None, "a card needs a model"
    lines = [*_front_matter(_model_metadata(run, pretrain, license_name)), "", f"# {run.name}", ""]
    lines += _model_summary(run, pretrain)
    for heading, section in (
        ("Scores", scores_section(run)),
        ("Classifiers", classifiers_section(run)),
        ("Quantized files", quantized_section(run)),
    ):
        lines += ["", f"## {heading}", ""]
        lines += _tables(section.blocks) if section.has_run else [f"Not run. {section.lead}"]
    lines += ["", "## Energy and carbon", "", energy_section(run).lead, ""]
    lines += _tables(energy_section(run).blocks)
    lines += ["", "## Training data", ""]
    lines += _tables(corpus_section(run).blocks) if run.stage("corpus") else [NOT_RUN]
    lines += _license_words(run, license_name, "corpus", "align")
    lines += ["", *_use_and_limits(run), "", *_origin(run)]
    return "\n".join(lines) + "\n"


def chat_card(run: RunRecord, *, license_name: str) -> str:
    """`chat_card.md`: the README.md of the chat model, with results on held-out questions."""
    align, pretrain = run.stage("align"), run.stage("pretrain")
    assert align is not None and pretrain is not None, "a card needs a model"
    metadata = {
        "language": [run.language],
        **_license_metadata(license_name),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["teenytinyllama", _tag(pretrain), "conversational"],
        "co2_eq_emissions": _emissions(run, pretrain, "fine-tuning"),
    }
    lines = [*_front_matter(metadata), "", f"# {run.name}: chat", ""]
    lines += [
        f"The base model of the same run ({count(pretrain.count('parameters'))} parameters), "
        f"fine-tuned on {count(align.count('conversations_train'))} conversations in "
        f"`{_escape(run.language)}`. Its tokenizer includes the chat template.",
        "",
        "## Held-out questions",
        "",
    ]
    lines += _stat_lines(chat_section(run).blocks)
    lines += ["", "## Quantized files", ""]
    quantized = quantized_section(run)
    lines += _tables(quantized.blocks) if quantized.has_run else [NOT_RUN]
    lines += _license_words(run, license_name, "corpus", "align")
    lines += ["", *_use_and_limits(run), "", *_origin(run)]
    return "\n".join(lines) + "\n"


def dataset_card(run: RunRecord) -> str:
    """`dataset_card.md`: the README.md of the corpus on the Hub."""
    corpus = run.stage("corpus")
    assert corpus is not None, "a card needs documents"
    license_name = model_license("", licenses_of(run, "corpus"))
    kept = corpus.count("documents_kept")
    metadata = {
        "language": [run.language],
        **_license_metadata(license_name),
        "task_categories": ["text-generation"],
        "pretty_name": f"{run.name}: corpus",
        "size_categories": [_size_category(kept)],
        "tags": ["teenytinyllama"],
        "configs": [{"config_name": "default", "data_files": list(_splits(corpus))}],
    }
    lines = [*_front_matter(metadata), "", f"# {run.name}: corpus", ""]
    lines += [
        f"{count(kept)} documents in `{_escape(run.language)}`, "
        f"{count(corpus.count('bytes_kept'))} bytes of text; "
        f"{count(corpus.count('documents_heldout'))} of them are held out.",
        "",
        "Each document has `id`, `text`, `source`, `license`, `url` and filter `scores`.",
        "",
        "## Documents read, kept and removed",
        "",
    ]
    lines += _tables(corpus_section(run).blocks)
    lines += ["", "## Tokens", ""]
    lines += _tables(tokenizer_section(run).blocks) if run.stage("tokenizer") else [NOT_RUN]
    lines += _license_words(run, license_name, "corpus")
    lines += ["", *_origin(run)]
    return "\n".join(lines) + "\n"


def _splits(corpus: FinishedStage) -> Iterator[dict[str, str]]:
    """Where the Hub's viewer and `load_dataset` find the documents."""
    for split, stem in (("train", "train"), ("validation", "heldout")):
        if any(name.startswith(f"{stem}-") for name in corpus.manifest.outputs):
            yield {"split": split, "path": f"data/{stem}-*.jsonl.zst"}


def _model_metadata(run: RunRecord, pretrain: FinishedStage, license_name: str) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "language": [run.language],
        **_license_metadata(license_name),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["teenytinyllama", _tag(pretrain)],
        "co2_eq_emissions": _emissions(run, pretrain, "pre-training"),
    }
    results = list(_results(run))
    if results:
        metadata["model-index"] = [{"name": run.name, "results": results}]
    return metadata


def _emissions(run: RunRecord, pretrain: FinishedStage, training_type: str) -> dict[str, Any]:
    """Emissions of all stages in grams of CO2 equivalent, in the Hub's format."""
    return {
        "emissions": round(1000 * sum(r.manifest.emissions_kg for r in run.stages.values()), 3),
        "source": "CodeCarbon",
        "training_type": training_type,
        "geographical_location": run.energy.country,
        "hardware_used": str(pretrain.metric("device") or "not recorded"),
    }


def _results(run: RunRecord) -> Iterator[dict[str, Any]]:
    evaluate = run.stage("evaluate")
    if evaluate is None:
        return
    metrics = []
    for key, name in (
        ("heldout_bits_per_byte", "bits per byte"),
        ("heldout_perplexity", "perplexity"),
    ):
        value = evaluate.metric(key)
        if is_number(value):
            kind = "perplexity" if name == "perplexity" else "bits_per_byte"
            metrics.append({"type": kind, "value": value, "name": name})
    if metrics:
        yield _result("held-out text", "heldout", metrics)
    for name, found in tasks_of(evaluate).items():
        if isinstance(found, Mapping) and is_number(found.get("accuracy")):
            kind = str(found.get("metric") or "accuracy")
            metric = {"type": "accuracy", "value": found["accuracy"], "name": kind}
            yield _result(name, name, [metric])


def _result(name: str, kind: str, metrics: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "task": {"type": "text-generation"},
        "dataset": {"type": kind, "name": name},
        "metrics": metrics,
    }


def _license_metadata(license_name: str) -> dict[str, str]:
    known = hub_name(license_name)
    if known == "other":
        plain = re.sub(r"[^a-z0-9.]+", "-", license_name.lower()).strip("-") or "unknown"
        return {"license": known, "license_name": "see-card" if plain == "other" else plain}
    return {"license": known}


def _model_summary(run: RunRecord, pretrain: FinishedStage) -> Lines:
    yield (
        f"A base language model for `{_escape(run.language)}` with "
        f"**{count(pretrain.count('parameters'))} parameters**, trained from scratch on "
        f"**{count(pretrain.count('tokens'))} tokens** in {count(pretrain.count('steps'))} steps "
        f"({duration(pretrain.manifest.duration_s)}, "
        f"{_escape(str(pretrain.metric('device') or 'device not recorded'))})."
    )
    yield ""
    yield f"The weights load with `transformers` as `{_model_class(pretrain)}`."
    yield ""
    chat = run.stage("align")
    yield f"Chat model: {NOT_RUN if chat is None else 'trained in the same run'}."


def _model_class(pretrain: FinishedStage) -> str:
    return _escape(str(pretrain.metric("model_class") or "LlamaForCausalLM"))


def _tag(pretrain: FinishedStage) -> str:
    return _model_class(pretrain).removesuffix("ForCausalLM").lower()


def _license_words(run: RunRecord, license_name: str, *stages: str) -> Lines:
    names = sorted(set(licenses_of(run, *stages)))
    yield ""
    yield "## Licence"
    yield ""
    own = "unclear: these licences exclude each other" if license_name == "other" else license_name
    yield f"Licence of this work: **{_escape(own or 'unknown')}**. Licences of its text:"
    yield ""
    for name in names:
        yield f"- {_escape(name or 'licence not given')} ({terms_of(name).name})"
    if not names:
        yield f"- {NOT_RUN}"


def _use_and_limits(run: RunRecord) -> Lines:
    yield "## Intended use and limits"
    yield ""
    yield "For research, teaching and fine-tuning. The model invents facts and repeats biases of"
    yield "its training text. Do not use it for decisions about people."
    evaluate = run.stage("evaluate")
    if evaluate is None:
        yield ""
        yield "It has not been evaluated."
        return
    weak = [
        f"{_escape(name)} ({percent(found.get('accuracy'))}, chance {percent(found.get('chance'))})"
        for name, found in tasks_of(evaluate).items()
        if isinstance(found, Mapping) and interval_of(found) and verdict(found)[0] == "at chance"
    ]
    if weak:
        yield ""
        yield f"At chance level, so no evidence of skill: {', '.join(weak)}."


def _origin(run: RunRecord) -> Lines:
    version = next(iter(run.stages.values())).manifest.version
    kwh = sum(map(stage_kwh, run.stages.values()))
    gpu = sum(one.manifest.energy_kwh.get("gpu_measured", 0.0) for one in run.stages.values())
    parts = (
        f"{gpu:.4g} measured (GPU), the rest modelled" if gpu else "modelled: no GPU was measured"
    )
    yield "## How it was made"
    yield ""
    yield f"TeenyTinyLlama {version}, `ttl run recipe.toml` (the recipe is beside this card);"
    yield f"{kwh:.4g} kWh in total ({parts}). Fingerprints of the stages:"
    yield ""
    for name, stage in run.stages.items():
        yield f"- {name}: `{stage.manifest.fingerprint}`"


def _stat_lines(blocks: Sequence[Any]) -> Lines:
    for block in blocks:
        for stat in block.items if isinstance(block, StatRow) else ():
            note = f" ({_escape(stat.note)})" if stat.note else ""
            yield f"- {_escape(stat.title)}: {_escape(stat.text)}{note}"


def _tables(blocks: Sequence[Any]) -> Lines:
    for block in blocks:
        if isinstance(block, Table) and block.rows:
            yield f"**{_escape(block.title)}**"
            yield ""
            yield _row(column.title for column in block.columns)
            yield _row("---:" if column.is_number else "---" for column in block.columns)
            for row in (*block.rows, *((block.total,) if block.total else ())):
                yield _row(_escape(cell.text) for cell in row)
            yield ""


def _row(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"


def _escape(text: str) -> str:
    r"""External text as inert Markdown.

    >>> _escape("a|b <img src=x> [c](http://d)")
    'a\\|b &lt;img src=x&gt; \\[c\\](http://d)'
    """
    flat = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_|\[\]#])", r"\\\1", flat)


def _front_matter(metadata: Mapping[str, Any]) -> list[str]:
    """The metadata block; each value is written as JSON, which is YAML without its pitfalls."""
    rows = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in metadata.items()]
    # Escape `<` where it could open a tag, in case the block is shown as HTML.
    return ["---", *(re.sub(r"<(?=[A-Za-z/!?])", r"\\u003c", row) for row in rows), "---"]


def _size_category(documents: Any) -> str:
    if not is_number(documents):
        return "n<1K"
    return next((name for limit, name in SIZE_CATEGORIES if documents < limit), "n>1T")
