"""Sections about the text: corpus funnel, removed documents, tokenizer, tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from teenytinyllama.artifacts.documents import read_json_lines
from teenytinyllama.languages import byte_premium
from teenytinyllama.languages.personal_data import PersonalData
from teenytinyllama.stages.report.number_format import (
    count,
    decimal,
    is_number,
    percent,
    short,
    size,
)
from teenytinyllama.stages.report.page_blocks import (
    Block,
    Cell,
    Column,
    Excerpt,
    Excerpts,
    Section,
    Stat,
    StatRow,
    Table,
    not_run,
    numbers,
)
from teenytinyllama.stages.report.run_record import FinishedStage, RunRecord

OUTCOMES = ("read", "kept", "filtered", "duplicate", "quarantined")
MAX_REASONS_SHOWN = 12
MAX_EXCERPT_CHARACTERS = 400
MAX_ROWS_LOOKED_AT = 5000
QUALITY_SCORES = range(6)
# Texts removed for these reasons are not shown on the page.
PRIVATE_REASONS = ("toxic", "pii", "personal", "contamina")
MANIFEST = "corpus/manifest.json"


def corpus_section(run: RunRecord) -> Section:
    """What was read and kept, and why documents were removed."""
    title, lead = "Corpus", "Every document read has exactly one outcome."
    stage = run.stage("corpus")
    if stage is None:
        return not_run("corpus", title, "corpus", lead)
    blocks: list[Block] = [_funnel_stats(stage), _funnel(stage)]
    reasons = _reasons(stage)
    if reasons is not None:
        blocks.append(reasons)
    replaced = "Personal data replaced by placeholders"
    blocks += _counted(stage, "personal_data", "corpus_personal", replaced, ("kind", "replaced"))
    blocks += _counted(stage, "notes", "corpus_notes", "Also counted", ("event", "count"))
    blocks += _quality(stage, run.language)
    examples = _dropped_examples(stage.folder, run.language)
    if examples:
        blocks.append(
            Excerpts(
                "Examples of removed documents",
                tuple(examples),
                source="corpus/dropped/",
                note=f"First document for each reason, cut to {MAX_EXCERPT_CHARACTERS} characters.",
                folded=True,
            )
        )
    return Section("corpus", title, blocks, lead)


def _funnel_stats(stage: FinishedStage) -> StatRow:
    kept, read = stage.count("documents_kept"), stage.count("documents_read")
    fraction = kept / read if is_number(kept) and is_number(read) and read else None
    return StatRow(
        (
            Stat("documents read", count(read), size(stage.count("bytes_read"))),
            Stat("documents kept", count(kept), f"{percent(fraction)} of those read"),
            Stat("kept text", size(stage.count("bytes_kept"))),
            Stat("held out", count(stage.count("documents_heldout")), "documents, not trained on"),
        ),
        MANIFEST,
    )


def _funnel(stage: FinishedStage) -> Table:
    sources: Mapping[str, Any] = stage.count("sources") or {}
    columns = (
        Column("source"),
        *numbers(*OUTCOMES, "text kept"),
    )
    rows = tuple(_funnel_row(name, found) for name, found in sources.items())
    return Table(
        "corpus_funnel",
        "Documents per source",
        columns,
        rows,
        MANIFEST,
        total=_funnel_row("all", stage.manifest.counts),
    )


def _funnel_row(name: str, found: Mapping[str, Any]) -> tuple[Cell, ...]:
    read = found.get("documents_read")
    cells = [Cell(name)]
    for outcome in OUTCOMES:
        value = found.get(f"documents_{outcome}")
        bar = value / read if outcome == "kept" and is_number(value) and read else None
        cells.append(Cell(count(value), tone="quiet" if value == 0 else "", bar=bar))
    cells.append(Cell(size(found.get("bytes_kept"))))
    return tuple(cells)


def _reasons(stage: FinishedStage) -> Table | None:
    read = stage.count("documents_read") or 0
    rows = [
        (outcome, reason, number)
        for outcome in OUTCOMES[2:]
        for reason, number in (stage.count(f"{outcome}_by_reason") or {}).items()
    ]
    if not rows:
        return None
    rows.sort(key=lambda row: -row[2])
    return Table(
        "corpus_reasons",
        "Why documents were removed",
        (Column("outcome"), Column("reason"), *numbers("documents", "share")),
        tuple(
            (
                Cell(outcome),
                Cell(reason),
                Cell(count(number)),
                Cell(percent(number / read, 2) if read else "", bar=number / read if read else 0),
            )
            for outcome, reason, number in rows
        ),
        MANIFEST,
    )


def _counted(
    stage: FinishedStage, name: str, key: str, title: str, columns: tuple[str, str]
) -> Iterator[Table]:
    """A table of counts by name, where the stage has any."""
    found = stage.count(name)
    if isinstance(found, Mapping) and found:
        rows = tuple((Cell(of.replace("_", " ")), Cell(count(n))) for of, n in found.items())
        yield Table(key, title, (Column(columns[0]), *numbers(columns[1])), rows, MANIFEST)


def _dropped_examples(corpus_dir: Path, language: str) -> list[Excerpt]:
    """One text for each reason, without personal data: it was removed before any was replaced.

    Only the reason if the text may be toxic or personal.
    """
    personal_data = PersonalData(language)
    examples = []
    folders = sorted(path for path in (corpus_dir / "dropped").glob("*") if path.is_dir())
    for folder in folders[:MAX_REASONS_SHOWN]:
        shards = sorted(folder.glob("*.jsonl.zst"))
        row = next(read_json_lines(shards[0]), None) if shards else None
        if row is None:
            continue
        source, text = str(row.get("source", "")), str(row.get("text", ""))
        if any(word in folder.name for word in PRIVATE_REASONS):
            examples.append(Excerpt(folder.name, "(not shown)", note=source))
            continue
        examples.append(Excerpt(folder.name, _shown(text, personal_data), note=source))
    return examples


def _shown(text: str, personal_data: PersonalData) -> str:
    more = " …" if len(text) > MAX_EXCERPT_CHARACTERS else ""
    # Replaced before the cut: half an address is not recognised.
    text = personal_data.replace(text[: 2 * MAX_EXCERPT_CHARACTERS], Counter())
    return text[:MAX_EXCERPT_CHARACTERS] + more


def _quality(stage: FinishedStage, language: str) -> Iterator[Block]:
    """How far the quality classifier agrees with labels, what each source loses by it, examples."""
    found: Mapping[str, Any] = stage.metric("quality") or {}
    if not found:
        return
    agreement = (
        f"On labels it was not trained on: Spearman {decimal(found['spearman'])}, F1 "
        f"{decimal(found['f1'])} at {found['cut']:g}; {count(found['labels'])} labels. Mean label "
        "of what is scored "
    )
    curve = (f"{score}: {row['mean_label']:.1f}" for score, row in found["curve"].items())
    yield Table(
        "corpus_quality",
        "What the quality classifier keeps of each source",
        (
            Column("source"),
            *numbers("documents", "kept", "text kept", "mean score"),
            *numbers(*(f"score {n}" for n in QUALITY_SCORES)),
        ),
        tuple(
            (
                Cell(name),
                Cell(count(row["documents"])),
                Cell(count(row["documents_kept"])),
                Cell(percent(row["bytes_kept_fraction"]), bar=row["bytes_kept_fraction"]),
                Cell(decimal(row["mean_score"], 2)),
                *(Cell(count(n), tone="" if n else "quiet") for n in row["documents_by_score"]),
            )
            for name, row in sorted(
                found["sources"].items(), key=lambda item: item[1]["bytes_kept_fraction"]
            )
        ),
        MANIFEST,
        note=agreement + ", ".join(curve) + ".",
    )
    examples = _scored_examples(stage.folder, language)
    if examples:
        note = "The first document at each score, rounded, kept or not."
        yield Excerpts("Examples at each score", examples, "corpus/", note=note, folded=True)


def _scored_examples(corpus_dir: Path, language: str) -> tuple[Excerpt, ...]:
    """A text at each score, of the first rows of each split and of what quality dropped."""
    personal_data = PersonalData(language)
    examples: dict[int, Excerpt] = {}
    shards = [*corpus_dir.glob("train-*.jsonl.zst"), *corpus_dir.glob("dropped/quality-*/*.zst")]
    for shard in sorted(shards):
        for row in islice(read_json_lines(shard), MAX_ROWS_LOOKED_AT):
            score = (row.get("scores") or {}).get("quality")
            if score is not None and round(score) not in examples:
                text = _shown(str(row.get("text", "")), personal_data)
                title, note = f"{round(score)}", f"{row.get('source', '')}, {score:.2f}"
                examples[round(score)] = Excerpt(title, text, note=note)
    return tuple(examples[score] for score in sorted(examples))


def tokenizer_section(run: RunRecord) -> Section:
    """Tokens per word on held-out documents, by source (paper, Table 1)."""
    lead = "Fewer tokens per word mean more text in the same context and cheaper training."
    stage = run.stage("tokenizer")
    if stage is None:
        return not_run("tokenizer", "Tokenizer", "tokenizer", lead)
    stats = StatRow(
        (
            Stat("vocabulary", count(stage.count("vocab_size")), str(stage.setting("model") or "")),
            Stat("tokens per word", decimal(stage.metric("all", "tokens_per_word"))),
            Stat(
                "bytes per token",
                decimal(stage.metric("all", "bytes_per_token")),
                _in_english(stage.metric("all", "bytes_per_token"), run.language),
            ),
            Stat("trained on", size(stage.count("bytes_trained_on")), "of text"),
        ),
        "tokenizer/manifest.json",
    )
    sources: Mapping[str, Any] = stage.metric("sources") or {}
    rows = [_tokenizer_row(name, found) for name, found in sources.items()]
    table = Table(
        "tokenizer",
        "On held-out documents (paper, Table 1)",
        (
            Column("source"),
            *numbers("words", "tokens", "tokens per word", "bytes per token", "byte fallback"),
        ),
        tuple(rows),
        "tokenizer/manifest.json",
        note="The paper's tokenizer: 9,937 tokens for 7,400 words, 1.343 per word (its Table 1). "
        "Compare tokenizers only on the same text.",
        total=_tokenizer_row("all", stage.metric("all") or {}),
    )
    scripts = _coverage_table(stage.metric("scripts"))
    return Section("tokenizer", "Tokenizer", (stats, table, *scripts), lead)


def _in_english(bytes_per_token: Any, language: str) -> str:
    """The same in bytes of English, where the language's byte premium is known."""
    premium = byte_premium(language)
    if premium is None or not is_number(bytes_per_token):
        return ""
    english = decimal(bytes_per_token / premium)
    return f"{english} bytes of English: byte premium {premium:g} (Arnett et al., 2024)"


def _coverage_table(scripts: Any) -> Iterator[Table]:
    """Characters by Unicode script, and how many of them the vocabulary lacks."""
    if not isinstance(scripts, Mapping) or not scripts:  # a run of an earlier version
        return
    total = sum(row["num_characters"] for row in scripts.values())
    yield Table(
        "scripts",
        "Characters of the held-out documents by script",
        (Column("script"), *numbers("characters", "of all", "without a token")),
        tuple(
            (
                Cell(script),
                Cell(count(row["num_characters"])),
                Cell(percent(row["num_characters"] / total, 2)),
                Cell(
                    percent(row["without_token_fraction"], 2),
                    note=f"{count(row['num_without_token'])} characters"
                    if row["num_without_token"]
                    else "",
                ),
            )
            for script, row in scripts.items()
        ),
        "tokenizer/manifest.json",
        note="Characters without a token are encoded as their bytes. Common: digits, punctuation "
        "and signs of every script.",
    )


def _tokenizer_row(name: str, found: Mapping[str, Any]) -> tuple[Cell, ...]:
    return (
        Cell(name),
        Cell(count(found.get("num_words"))),
        Cell(count(found.get("num_tokens"))),
        Cell(decimal(found.get("tokens_per_word"))),
        Cell(decimal(found.get("bytes_per_token"))),
        Cell(percent(found.get("byte_fallback_fraction"), 2)),
    )


def tokens_section(run: RunRecord) -> Section:
    """How many tokens there are, and how often each was seen."""
    stage, pretrain = run.stage("pack"), run.stage("pretrain")
    if stage is None:
        return not_run("tokens", "Tokens", "pack")
    rows = tuple(
        (
            Cell(name),
            Cell(count(stage.count(f"documents_{split}"))),
            Cell(count(stage.count(f"tokens_{split}"))),
        )
        for name, split in (("training", "train"), ("held out", "heldout"))
    )
    seen = pretrain.count("tokens") if pretrain else None
    epochs = pretrain.metric("epochs") if pretrain else None
    blocks: list[Block] = [
        Table(
            "tokens",
            "Tokens",
            (Column("split"), *numbers("documents", "tokens")),
            rows,
            "pack/manifest.json",
        )
    ]
    if pretrain is not None:
        blocks.insert(
            0,
            StatRow(
                (
                    Stat("training tokens", short(stage.count("tokens_train"))),
                    Stat("tokens seen", short(seen)),
                    Stat("epochs", decimal(epochs, 2), "up to 4 are almost as good as new text"),
                ),
                "pack/manifest.json, pretrain/manifest.json",
            ),
        )
    phases = stage.metric("phases")
    if phases:
        blocks.append(_phases(phases))
    return Section("tokens", "Tokens", blocks, "The corpus as token ids, ready for training.")


def _phases(phases: Sequence[Mapping[str, Any]]) -> Table:
    """What each phase of training reads of each source."""
    sources = sorted({name for phase in phases for name in phase["tokens_by_source"]})
    rows = tuple(
        (
            Cell(str(number)),
            Cell(count(phase["num_tokens"])),
            *(Cell(count(phase["tokens_by_source"].get(name, 0))) for name in sources),
        )
        for number, phase in enumerate(phases, start=1)
    )
    columns = (Column("phase"), *numbers("tokens", *sources))
    title = "Phases: tokens of each source, one phase after another"
    return Table("phases", title, columns, rows, "pack/manifest.json")
