"""The parts of the page on quality: scores with intervals, classifiers, chat, small files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from teenytinyllama.stages.report.number_format import (
    count,
    decimal,
    is_number,
    percent,
    plain,
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
    Note,
    Section,
    Strip,
    Table,
    not_run,
)
from teenytinyllama.stages.report.run_record import FinishedStage, RunRecord, read_lines

MAX_CHATS = 12
# Baselines of a classifier that need no language model, as they are called in a table.
BASELINES = {"bag_of_words": "bag of words", "majority": "most frequent label"}
CHAT_FIGURES = {
    "questions_asked": "questions asked",
    "right_answer_fraction": "right answers",
    "ends_answer_fraction": "answers that end",
    "language_kept_fraction": "in its language",
    "repeats_itself_fraction": "repeats itself",
    "quoted_answer_fraction": "quoted from training",
}


def interval_of(found: Mapping[str, Any]) -> tuple[float, float] | None:
    """The 95 % interval of an accuracy: as recorded, else 1.96 standard errors, else Wilson's.

    >>> [round(end, 3) for end in interval_of({"accuracy": 0.5, "num_items": 100})]
    [0.404, 0.596]
    """
    accuracy, items = found.get("accuracy"), found.get("num_items")
    recorded = found.get("interval95")
    if isinstance(recorded, list | tuple) and len(recorded) == 2 and all(map(is_number, recorded)):
        return float(recorded[0]), float(recorded[1])
    if not is_number(accuracy):
        return None
    if is_number(found.get("standard_error")):
        spread = 1.96 * found["standard_error"]
        return max(accuracy - spread, 0.0), min(accuracy + spread, 1.0)
    if not is_number(items) or not items:
        return None
    z = 1.96
    middle = (accuracy + z * z / (2 * items)) / (1 + z * z / items)
    half = z * math.sqrt(accuracy * (1 - accuracy) / items + z * z / (4 * items * items))
    half /= 1 + z * z / items
    return middle - half, middle + half


def verdict(found: Mapping[str, Any]) -> tuple[str, Any]:
    """Whether chance lies inside the interval, in words, and the tone to say it in."""
    interval, chance = interval_of(found), found.get("chance")
    if interval is None or not is_number(chance):
        return "", ""
    if interval[0] <= chance <= interval[1]:
        return "at chance", "warn"
    return ("above chance", "good") if interval[0] > chance else ("below chance", "warn")


def score_cells(found: Mapping[str, Any]) -> tuple[Cell, Cell, Cell, Cell]:
    """An accuracy, its interval drawn beside chance, chance, and which side of chance it is."""
    interval, accuracy, chance = interval_of(found), found.get("accuracy"), found.get("chance")
    words, tone = verdict(found)
    strip = None
    ends = ""
    if interval is not None and is_number(accuracy):
        strip = Strip(interval[0], accuracy, interval[1], chance if is_number(chance) else None)
        ends = f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"
    middle = Cell(ends or "–", strip=strip)
    return Cell(percent(accuracy)), middle, Cell(percent(chance)), Cell(words, tone=tone)


def task_rows(tasks: Mapping[str, Any]) -> Iterator[tuple[Cell, ...]]:
    """One row per task: accuracy with its interval, chance, items, and how many were seen."""
    for name, found in tasks.items():
        if not isinstance(found, Mapping):
            continue
        equal = found.get("num_equal_choices")
        yield (
            Cell(name),
            *score_cells(found),
            Cell(
                count(found.get("num_items")),
                note=f"{count(equal)} with equal choices" if equal else "",
            ),
            _seen(found),
        )


def _seen(found: Mapping[str, Any]) -> Cell:
    """How much of a task stands in the training text, and how many items were too short to tell."""
    dirty, short = found.get("contaminated_fraction"), found.get("items_too_short_to_check")
    note = f"{count(short)} too short to check" if short else ""
    if not is_number(dirty):
        return Cell("not checked" if short else "–", note=note)
    return Cell(percent(dirty), note=note, tone="warn" if dirty else "")


def tasks_of(stage: FinishedStage) -> Mapping[str, Any]:
    """Scores by task, whether nested under `tasks` or beside the held-out figures."""
    nested = stage.metric("tasks")
    if isinstance(nested, Mapping):
        return nested
    metrics = stage.manifest.metrics
    return {k: v for k, v in metrics.items() if isinstance(v, Mapping) and "accuracy" in v}


def scores_section(run: RunRecord) -> Section:
    """Held-out bits per byte beside its baselines, then tasks with intervals."""
    title, lead = "Scores", "Bits per byte first: it compares between tokenizers. Lower is better."
    stage = run.stage("evaluate")
    if stage is None:
        return not_run("scores", title, "evaluate", lead)
    blocks: list[Block] = [
        Facts(
            (
                Fact(
                    "held-out bits per byte",
                    decimal(stage.metric("heldout_bits_per_byte"), 4),
                    _beside_bigram(stage.metric("below_bigram_fraction")),
                ),
                Fact(
                    "perplexity",
                    decimal(stage.metric("heldout_perplexity"), 2),
                    "per token, e to the loss in nats",
                ),
                Fact("held-out text", size(stage.count("bytes_scored")), "never trained on"),
                *_leaks(stage),
            ),
            "evaluate/manifest.json",
        ),
        _baselines(stage),
    ]
    tasks = tasks_of(stage)
    if tasks:
        blocks.append(
            Table(
                "scores",
                "Multiple choice (paper, Table 4)",
                (
                    Column("task"),
                    Column("accuracy", True),
                    Column("95 % interval, 0 to 100"),
                    Column("chance", True),
                    Column("verdict"),
                    Column("items", True),
                    Column("seen in training", True),
                ),
                tuple(task_rows(tasks)),
                "evaluate/manifest.json",
                note="The line is the 95 % interval, the tick is chance. A score whose interval "
                "holds chance says nothing about the model. Seen in training: share of the items "
                "long enough to check that have a run of words in common with the training text.",
            )
        )
    sources = _by_source(stage)
    if sources is not None:
        blocks.append(sources)
    return Section("scores", title, blocks, lead)


def _beside_bigram(below: Any) -> str:
    if not is_number(below):
        return ""
    return f"{percent(abs(below))} {'under' if below >= 0 else 'above'} a bigram model"


def _leaks(stage: FinishedStage) -> Iterator[Fact]:
    """How many held-out documents stand in the training text, where that was looked for."""
    exact, near = stage.metric("heldout_leaks_exact"), stage.metric("heldout_leaks_near")
    if is_number(exact) and is_number(near):
        tone: Any = "warn" if exact + near else "good"
        words = f"{count(exact)} word for word, {count(near)} nearly"
        yield Fact("held-out seen in training", count(exact + near), words, tone)


def _baselines(stage: FinishedStage) -> Table:
    names = {"heldout_bits_per_byte": "this model", "bigram_bits_per_byte": "a bigram of tokens"}
    found = []
    for key, value in stage.manifest.metrics.items():
        if key.endswith("bits_per_byte") and is_number(value):
            name = names.get(key, key.removesuffix("_bits_per_byte").replace("_", " "))
            found.append((name, value))
    found.sort(key=lambda pair: pair[1])
    worst = max((value for _, value in found), default=1.0)
    rows = tuple(
        (
            Cell(name, tone="good" if name == "this model" else ""),
            Cell(decimal(value, 4), share=value / worst if worst else 0),
        )
        for name, value in found
    )
    return Table(
        "baselines",
        "The same held-out text, read by others",
        (Column("reader"), Column("bits per byte", True)),
        rows,
        "evaluate/manifest.json",
    )


def _by_source(stage: FinishedStage) -> Table | None:
    found = stage.metric("by_source")
    if not isinstance(found, Mapping) or len(found) < 2:
        return None
    rows = tuple(
        (
            Cell(name),
            Cell(decimal(part.get("heldout_bits_per_byte"), 4)),
            Cell(decimal(part.get("heldout_perplexity"), 2)),
            Cell(count(part.get("documents"))),
        )
        for name, part in found.items()
    )
    columns = (
        Column("source"),
        Column("bits per byte", True),
        Column("perplexity", True),
        Column("documents", True),
    )
    title = "Held-out text by source"
    return Table("scores_by_source", title, columns, rows, "evaluate/manifest.json")


def classifiers_section(run: RunRecord) -> Section:
    """Paper Table 5: fine-tuned accuracy beside what needs no language model."""
    title, lead = "Classifiers", "The base model, fine-tuned on labelled texts."
    stage = run.stage("finetune")
    if stage is None:
        return not_run("classifiers", title, "finetune", lead)
    tasks = tasks_of(stage)
    others: list[str] = []
    for found in tasks.values():
        names = (key.removesuffix("_accuracy") for key in found if key.endswith("_accuracy"))
        others += [name for name in names if name not in others]
    others.sort(key=lambda name: (name in BASELINES, name))
    table = Table(
        "classifiers",
        "Test sets (paper, Table 5)",
        (
            Column("task"),
            Column("accuracy", True),
            Column("95 % interval, 0 to 100"),
            *(Column(BASELINES.get(name, name), True) for name in others),
            Column("macro F1", True),
            Column("items", True),
        ),
        tuple(_classifier_row(name, found, others) for name, found in tasks.items()),
        "finetune/manifest.json",
        note="The accuracy is the mean over the seeds, and the interval is that of this mean over "
        "the test items; ± is the spread over the seeds. "
        "The tick is the most frequent label. The paper chose the best epoch on the test "
        "set; here the test set is read once, at the end.",
    )
    return Section("classifiers", title, (table,), lead)


def _classifier_row(name: str, found: Mapping[str, Any], others: list[str]) -> tuple[Cell, ...]:
    spread, seeds = found.get("accuracy_spread"), found.get("seeds")
    several = isinstance(seeds, list) and len(seeds) > 1 and is_number(spread)
    note = f"± {percent(spread)} over {len(seeds or ())} seeds" if several else ""
    accuracy, interval, _, _ = score_cells({**found, "chance": found.get("majority_accuracy")})
    beside = []
    for other in others:
        value = found.get(f"{other}_accuracy")
        beside.append(Cell(percent(value) if is_number(value) else "–"))
    return (
        Cell(name),
        Cell(accuracy.text, note=note),
        interval,
        *beside,
        Cell(percent(found.get("macro_f1"))),
        Cell(count(found.get("num_items"))),
    )


def _score(name: str, value: Any) -> str:
    if not is_number(value):
        return "–"
    if "num" in name or "items" in name or "asked" in name:
        return count(value)
    return percent(value) if 0 <= value <= 1 else plain(value)


def chat_section(run: RunRecord) -> Section:
    """What the chat model answers to questions it has not seen."""
    title, lead = "Chat", "Questions kept out of training, answered greedily."
    stage = run.stage("align")
    if stage is None:
        return not_run("chat", title, "align", lead)
    facts = [
        Fact(name, _score(key, stage.metric(key)))
        for key, name in CHAT_FIGURES.items()
        if is_number(stage.metric(key))
    ]
    before, after = stage.metric("heldout_answer_loss_before"), stage.metric("heldout_answer_loss")
    if is_number(after):
        facts.append(Fact("loss of held-out answers", decimal(after), f"before: {decimal(before)}"))
    learnt = stage.count("conversations_train")
    facts.insert(0, Fact("conversations learnt", count(learnt)))
    blocks: list[Block] = [Facts(tuple(facts), "align/manifest.json")]
    examples = [_chat(line) for line in read_lines(stage.folder / "examples.jsonl")][:MAX_CHATS]
    if examples:
        blocks.append(Excerpts("Examples", tuple(examples), source="align/examples.jsonl"))
    else:
        blocks.append(Note("Not recorded: align/examples.jsonl is not in this run.", tone="quiet"))
    return Section("chat", title, blocks, lead)


def _chat(line: Mapping[str, Any]) -> Excerpt:
    messages = line.get("messages")
    asked = str(line.get("prompt") or line.get("question") or "")
    if not asked and isinstance(messages, list):
        said = [m for m in messages if isinstance(m, Mapping) and m.get("role") == "user"]
        asked = str(said[-1].get("content", "")) if said else ""
    expected, correct = line.get("expected"), line.get("correct")
    note = f"expected: {expected}" if expected and correct is not True else ""
    label = {True: "right", False: "wrong"}.get(correct, "") if isinstance(correct, bool) else ""
    tone: Any = {"right": "good", "wrong": "warn"}.get(label, "")
    return Excerpt(
        label, str(line.get("answer", "")), lead=asked, note=note, tone=tone, is_answer=True
    )


def small_files_section(run: RunRecord) -> Section:
    """Sizes of the quantized files, and what each lost."""
    title, lead = "Small files", "Loaded back and compared with the original on held-out text."
    stage = run.stage("quantize")
    if stage is None:
        return not_run("quantized", title, "quantize", lead)
    rows = []
    for name, found in stage.manifest.metrics.items():
        if not isinstance(found, Mapping):
            continue
        growth, same = found.get("bits_per_byte_increase"), found.get("same_best_token")
        rows.append(
            (
                Cell(name),
                Cell(size(found.get("size_bytes"))),
                Cell(decimal(found.get("bits_per_byte"), 4)),
                Cell(percent(growth, 2) if is_number(growth) else "–"),
                Cell(percent(same, 2) if is_number(same) else "–"),
            )
        )
    table = Table(
        "quantized",
        "Size and loss",
        (
            Column("file"),
            Column("size", True),
            Column("bits per byte", True),
            Column("growth", True),
            Column("same most likely token", True),
        ),
        tuple(rows),
        "quantize/manifest.json",
    )
    return Section("quantized", title, (table,), lead)
