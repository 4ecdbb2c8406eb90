"""The parts of the page on text: corpus funnel per source, what was dropped, tokenizer, tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from teenytinyllama.artifacts.documents import read_json_lines
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
    Fact,
    Facts,
    Section,
    Table,
    not_run,
)
from teenytinyllama.stages.report.run_record import FinishedStage, RunRecord

HEADINGS = ("read", "kept", "filtered", "duplicate", "quarantined")
MAX_REASONS_SHOWN = 12
MAX_EXCERPT_CHARACTERS = 400
# Texts dropped for these are not shown again to every reader of the page.
PRIVATE_REASONS = ("toxic", "pii", "personal", "contamina")
MANIFEST = "corpus/manifest.json"


def corpus_section(run: RunRecord) -> Section:
    """What was read, what was kept, and for every dropped document why."""
    title, lead = "Corpus", "Every document read stands under exactly one heading."
    stage = run.stage("corpus")
    if stage is None:
        return not_run("corpus", title, "corpus", lead)
    blocks: list[Block] = [_funnel_facts(stage), _funnel(stage)]
    reasons = _reasons(stage)
    if reasons is not None:
        blocks.append(reasons)
    blocks += [*_personal(stage), *_notes(stage)]
    examples = _dropped_examples(stage.folder)
    if examples:
        blocks.append(
            Excerpts(
                "What was dropped, by example",
                tuple(examples),
                source="corpus/dropped/",
                note="The first document of each reason, cut after 400 characters.",
                folded=True,
            )
        )
    return Section("corpus", title, blocks, lead)


def _funnel_facts(stage: FinishedStage) -> Facts:
    kept, read = stage.count("documents_kept"), stage.count("documents_read")
    share = kept / read if is_number(kept) and is_number(read) and read else None
    return Facts(
        (
            Fact("documents read", count(read), size(stage.count("bytes_read"))),
            Fact("documents kept", count(kept), f"{percent(share)} of those read"),
            Fact("kept text", size(stage.count("bytes_kept"))),
            Fact(
                "held out", count(stage.count("documents_heldout")), "documents, never trained on"
            ),
        ),
        MANIFEST,
    )


def _funnel(stage: FinishedStage) -> Table:
    sources: Mapping[str, Any] = stage.count("sources") or {}
    columns = (
        Column("source"),
        *(Column(heading, True) for heading in HEADINGS),
        Column("text kept", True),
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
    for heading in HEADINGS:
        value = found.get(f"documents_{heading}")
        share = value / read if heading == "kept" and is_number(value) and read else None
        tone: Any = "quiet" if value == 0 else ""
        cells.append(Cell(count(value), tone=tone, share=share))
    cells.append(Cell(size(found.get("bytes_kept"))))
    return tuple(cells)


def _reasons(stage: FinishedStage) -> Table | None:
    rows = []
    read = stage.count("documents_read") or 0
    for heading in HEADINGS[2:]:
        for reason, number in (stage.count(f"{heading}_by_reason") or {}).items():
            rows.append((heading, reason, number))
    if not rows:
        return None
    rows.sort(key=lambda row: -row[2])
    return Table(
        "corpus_reasons",
        "Why documents were left out",
        (Column("heading"), Column("reason"), Column("documents", True), Column("share", True)),
        tuple(
            (
                Cell(heading),
                Cell(reason),
                Cell(count(number)),
                Cell(percent(number / read, 2) if read else "", share=number / read if read else 0),
            )
            for heading, reason, number in rows
        ),
        MANIFEST,
    )


def _personal(stage: FinishedStage) -> Iterator[Table]:
    """Personal data that was replaced by marks, by kind."""
    found = stage.count("personal_data")
    if isinstance(found, Mapping) and found:
        rows = tuple((Cell(kind), Cell(count(n))) for kind, n in found.items())
        columns = (Column("kind"), Column("replaced", True))
        title = "Personal data replaced by marks"
        yield Table("corpus_personal", title, columns, rows, MANIFEST)


def _notes(stage: FinishedStage) -> Iterator[Table]:
    """What else the stage counted on its way."""
    found = stage.count("notes")
    if isinstance(found, Mapping) and found:
        rows = tuple((Cell(name.replace("_", " ")), Cell(count(n))) for name, n in found.items())
        columns = (Column("what"), Column("times", True))
        yield Table("corpus_notes", "Also counted", columns, rows, MANIFEST)


def _dropped_examples(corpus_dir: Path) -> list[Excerpt]:
    """One text per reason; of a text dropped for what it says of people only the reason."""
    examples = []
    folders = sorted(path for path in (corpus_dir / "dropped").glob("*") if path.is_dir())
    for folder in folders[:MAX_REASONS_SHOWN]:
        shards = sorted(folder.glob("*.jsonl.zst"))
        row = next(read_json_lines(shards[0]), None) if shards else None
        if row is None:
            continue
        source, text = str(row.get("source", "")), str(row.get("text", ""))
        if any(word in folder.name for word in PRIVATE_REASONS):
            examples.append(Excerpt(folder.name, "(not shown here)", note=source))
            continue
        more = " …" if len(text) > MAX_EXCERPT_CHARACTERS else ""
        examples.append(Excerpt(folder.name, text[:MAX_EXCERPT_CHARACTERS] + more, note=source))
    return examples


def tokenizer_section(run: RunRecord) -> Section:
    """Paper Table 1, per source of the corpus and on text the tokenizer never saw."""
    lead = "Fewer tokens per word: more text in the same context, and cheaper training."
    stage = run.stage("tokenizer")
    if stage is None:
        return not_run("tokenizer", "Tokenizer", "tokenizer", lead)
    facts = Facts(
        (
            Fact("vocabulary", count(stage.count("vocab_size")), str(stage.setting("model") or "")),
            Fact("tokens per word", decimal(stage.metric("all", "tokens_per_word"))),
            Fact("bytes per token", decimal(stage.metric("all", "bytes_per_token"))),
            Fact("trained on", size(stage.count("bytes_trained_on")), "of text"),
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
            Column("words", True),
            Column("tokens", True),
            Column("tokens per word", True),
            Column("bytes per token", True),
            Column("spelt in bytes", True),
        ),
        tuple(rows),
        "tokenizer/manifest.json",
        note="The paper's tokenizer: 9,937 tokens for 7,400 words, 1.343 per word (its Table 1). "
        "Other text gives other numbers: compare on the same words only.",
        total=_tokenizer_row("all", stage.metric("all") or {}),
    )
    return Section("tokenizer", "Tokenizer", (facts, table), lead)


def _tokenizer_row(name: str, found: Mapping[str, Any]) -> tuple[Cell, ...]:
    return (
        Cell(name),
        Cell(count(found.get("num_words", found.get("words")))),
        Cell(count(found.get("num_tokens", found.get("tokens")))),
        Cell(decimal(found.get("tokens_per_word"))),
        Cell(decimal(found.get("bytes_per_token"))),
        Cell(percent(found.get("byte_fallback_fraction"), 2)),
    )


def tokens_section(run: RunRecord) -> Section:
    """How much there is to train on, and how often it was seen."""
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
            (Column("split"), Column("documents", True), Column("tokens", True)),
            rows,
            "pack/manifest.json",
        )
    ]
    if pretrain is not None:
        blocks.insert(
            0,
            Facts(
                (
                    Fact("tokens to train on", short(stage.count("tokens_train"))),
                    Fact("tokens seen in training", short(seen)),
                    Fact("passes over the text", decimal(epochs, 2), "up to 4 are nearly free"),
                ),
                "pack/manifest.json, pretrain/manifest.json",
            ),
        )
    return Section("tokens", "Tokens", blocks, "The text as the model reads it.")
