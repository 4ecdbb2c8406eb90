"""Sections about quality: scores with intervals, classifiers, chat, quantized files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from teenytinyllama.artifacts.json_lines import read_lines
from teenytinyllama.languages import byte_premium
from teenytinyllama.stages.report.number_format import (
    count,
    decimal,
    fewer_bits,
    is_number,
    percent,
    size,
)
from teenytinyllama.stages.report.page_blocks import (
    Block,
    Cell,
    Column,
    Excerpt,
    Excerpts,
    IntervalPlot,
    Note,
    Section,
    Stat,
    StatRow,
    Table,
    not_run,
    numbers,
)
from teenytinyllama.stages.report.run_record import FinishedStage, RunRecord

MAX_CHATS = 12
# Baselines of a classifier that need no language model, with their names in the table.
BASELINES = {"bag_of_words": "bag of words", "majority": "majority class"}
CHAT_METRICS = {
    "questions_asked": "questions asked",
    "right_answer_fraction": "correct answers",
    "ends_answer_fraction": "finished answers",
    "language_kept_fraction": "in the right language",
    "repeats_itself_fraction": "repetitive answers",
    "matched_answer_fraction": "equal to a training answer",
}


def interval_of(found: Mapping[str, Any]) -> tuple[float, float] | None:
    """The 95 % interval of an accuracy: recorded, or from its standard error, or Wilson's.

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
    """Whether the score is above, at or below chance, and the tone of that cell."""
    interval, chance = interval_of(found), found.get("chance")
    if interval is None or not is_number(chance):
        return "", ""
    if interval[0] <= chance <= interval[1]:
        return "at chance", "warn"
    return ("above chance", "good") if interval[0] > chance else ("below chance", "warn")


def score_cells(found: Mapping[str, Any]) -> tuple[Cell, Cell, Cell, Cell]:
    """Cells: accuracy, interval drawn with the chance level, chance, verdict."""
    interval, accuracy, chance = interval_of(found), found.get("accuracy"), found.get("chance")
    words, tone = verdict(found)
    plot, ends = None, "–"
    if interval is not None and is_number(accuracy):
        plot = IntervalPlot(*interval, accuracy, chance if is_number(chance) else None)
        ends = f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"
    middle = Cell(ends, interval=plot)
    return Cell(percent(accuracy)), middle, Cell(percent(chance)), Cell(words, tone=tone)


def task_rows(tasks: Mapping[str, Any]) -> Iterator[tuple[Cell, ...]]:
    """One row per task: score, number of items, and share seen in training."""
    for name, found in tasks.items():
        if not isinstance(found, Mapping):
            continue
        accuracy, *others = score_cells(found)
        yield (
            Cell(name, note=_length_words(found.get("length_rule"))),
            Cell(accuracy.text, note=_accuracy_words(found)),
            *others,
            Cell(count(found.get("num_items")), note=_item_words(found)),
            _contamination(found),
        )


def _accuracy_words(found: Mapping[str, Any]) -> str:
    """Which accuracy it is, and the one per character where choices differ in length."""
    normalized = found.get("normalized")
    if found.get("metric") == "acc_norm":
        return "by likelihood per character"
    if not isinstance(normalized, Mapping):
        return ""
    return f"{percent(normalized.get('accuracy'))} by likelihood per character"


def _item_words(found: Mapping[str, Any]) -> str:
    ties, equal = found.get("num_ties"), found.get("num_equal_choices")
    words = [f"{count(ties)} ties"] if ties else []
    return ", ".join(words + ([f"{count(equal)} with identical choices"] if equal else []))


def _length_words(rule: Any) -> str:
    if not isinstance(rule, Mapping):
        return ""
    return f"the {rule.get('choose')} choice alone: {percent(rule.get('accuracy'))}"


def _contamination(found: Mapping[str, Any]) -> Cell:
    """Share of a task's items seen in training, and how many were too short to check."""
    dirty, short = found.get("contaminated_fraction"), found.get("items_too_short_to_check")
    note = f"{count(short)} too short to check" if short else ""
    if not is_number(dirty):
        return Cell("not checked" if short else "–", note=note)
    return Cell(percent(dirty), note=note, tone="warn" if dirty else "")


def tasks_of(stage: FinishedStage) -> Mapping[str, Any]:
    """Scores by task."""
    tasks = stage.metric("tasks")
    return tasks if isinstance(tasks, Mapping) else {}


def bits_per_english_byte(bits_per_byte: Any, language: str) -> float | None:
    """Bits for as much text as one byte of English says; None without a known byte premium.

    A text of B bytes would have B / premium bytes in English, so that bits per byte are multiplied.
    """
    premium = byte_premium(language)
    return bits_per_byte * premium if premium and is_number(bits_per_byte) else None


def _in_english(bits_per_byte: Any, language: str) -> Iterator[Stat]:
    bits = bits_per_english_byte(bits_per_byte, language)
    if bits is not None:
        yield Stat(
            "bits per English byte",
            decimal(bits, 4),
            f"times the byte premium, {byte_premium(language):g}, to compare languages",
        )


def scores_section(run: RunRecord) -> Section:
    """Held-out bits per byte with baselines, then tasks with intervals."""
    title = "Scores"
    lead = (
        "Bits per byte: how many bits the model needs for each byte of unseen text. "
        "Lower is better; models with different tokenizers can be compared."
    )
    stage = run.stage("evaluate")
    if stage is None:
        return not_run("scores", title, "evaluate", lead)
    blocks: list[Block] = [
        StatRow(
            (
                Stat(
                    "held-out bits per byte",
                    decimal(stage.metric("heldout_bits_per_byte"), 4),
                    _joined(
                        _ends(stage.metric("heldout_bits_per_byte_interval95")),
                        _against_bigram(stage.metric("below_bigram_fraction")),
                    ),
                ),
                Stat(
                    "perplexity",
                    decimal(stage.metric("heldout_perplexity"), 2),
                    "equally likely choices per token; depends on the tokenizer",
                ),
                *_in_english(stage.metric("heldout_bits_per_byte"), run.language),
                Stat("held-out text", size(stage.count("bytes_scored")), "never trained on"),
                *_heldout_overlap(stage),
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
                    *numbers("accuracy"),
                    Column("95 % interval, 0 to 100"),
                    *numbers("chance"),
                    Column("verdict"),
                    *numbers("items", "seen in training"),
                ),
                tuple(task_rows(tasks)),
                "evaluate/manifest.json",
                note="Line: 95 % interval; tick: chance level. A tie counts as a share. "
                "A score whose interval contains chance is no evidence of skill. Seen in training: "
                "share of the items long enough to check that have a run of words in common with "
                "the training text.",
            )
        )
    sources = _by_source(stage)
    if sources is not None:
        blocks.append(sources)
    return Section("scores", title, blocks, lead)


def _ends(interval: Any) -> str:
    """A 95 % interval of bits per byte in words."""
    is_pair = isinstance(interval, list | tuple) and len(interval) == 2
    return f"{interval[0]:.4f} to {interval[1]:.4f} (95 %)" if is_pair else ""


def _joined(*words: str) -> str:
    return "; ".join(word for word in words if word)


def _against_bigram(below: Any) -> str:
    return f"{fewer_bits(below)} than a bigram model" if is_number(below) else ""


def _heldout_overlap(stage: FinishedStage) -> Iterator[Stat]:
    """How many held-out documents are also in the training text, if that was checked."""
    exact, near = stage.metric("heldout_leaks_exact"), stage.metric("heldout_leaks_near")
    if is_number(exact) and is_number(near):
        tone: Any = "warn" if exact + near else "good"
        words = f"{count(exact)} exact, {count(near)} near copies"
        yield Stat("held-out overlap", count(exact + near), words, tone)


def _baselines(stage: FinishedStage) -> Table:
    names = {"heldout_bits_per_byte": "this model", "bigram_bits_per_byte": "bigram model"}
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
            Cell(decimal(value, 4), bar=value / worst if worst else 0),
        )
        for name, value in found
    )
    return Table(
        "baselines",
        "Baselines on the same held-out text",
        (Column("model"), *numbers("bits per byte")),
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
            Cell(
                decimal(part.get("heldout_bits_per_byte"), 4),
                note=_ends(part.get("heldout_bits_per_byte_interval95")),
            ),
            Cell(decimal(part.get("heldout_perplexity"), 2)),
            Cell(count(part.get("documents"))),
        )
        for name, part in found.items()
    )
    columns = (
        Column("source"),
        *numbers("bits per byte", "perplexity", "documents"),
    )
    title = "Held-out text by source"
    return Table("scores_by_source", title, columns, rows, "evaluate/manifest.json")


def classifiers_section(run: RunRecord) -> Section:
    """Fine-tuned accuracy and simple baselines (paper, Table 5)."""
    title, lead = "Classifiers", "The base model fine-tuned on labelled texts."
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
            *numbers("accuracy"),
            Column("95 % interval, 0 to 100"),
            *numbers(*(BASELINES.get(name, name) for name in others)),
            *numbers("macro F1", "items"),
        ),
        tuple(_classifier_row(name, found, others) for name, found in tasks.items()),
        "finetune/manifest.json",
        note="Accuracy: mean over the seeds, with its 95 % interval over the test items; ±: spread "
        "over the seeds; tick: majority class. The paper chose the best epoch on the test set; "
        "here the test set is read once, at the end.",
    )
    return Section("classifiers", title, (table,), lead)


def _classifier_row(name: str, found: Mapping[str, Any], others: list[str]) -> tuple[Cell, ...]:
    spread, seeds = found.get("accuracy_spread"), found.get("seeds")
    several = isinstance(seeds, list) and len(seeds) > 1 and is_number(spread)
    note = f"± {percent(spread)} over {len(seeds or ())} seeds" if several else ""
    accuracy, interval, _, _ = score_cells({**found, "chance": found.get("majority_accuracy")})
    baselines = []
    for other in others:
        value = found.get(f"{other}_accuracy")
        baselines.append(Cell(percent(value) if is_number(value) else "–"))
    return (
        Cell(name),
        Cell(accuracy.text, note=note),
        interval,
        *baselines,
        Cell(percent(found.get("macro_f1"))),
        Cell(count(found.get("num_items"))),
    )


def chat_section(run: RunRecord) -> Section:
    """How the chat model answers held-out questions."""
    title, lead = "Chat", "Questions not seen in training, answered with greedy decoding."
    stage = run.stage("align")
    if stage is None:
        return not_run("chat", title, "align", lead)
    asked = stage.metric("questions_asked")
    stats = [
        Stat(
            name,
            count(value) if key == "questions_asked" else percent(value),
            "" if key == "questions_asked" else _share_words(value, asked),
        )
        for key, name in CHAT_METRICS.items()
        if is_number(value := stage.metric(key))
    ]
    before, after = stage.metric("heldout_answer_loss_before"), stage.metric("heldout_answer_loss")
    if is_number(after):
        stats.append(Stat("held-out answer loss", decimal(after), f"before: {decimal(before)}"))
    stats.insert(0, Stat("training conversations", count(stage.count("conversations_train"))))
    blocks: list[Block] = [StatRow(tuple(stats), "align/manifest.json")]
    examples = [_chat(line) for line in read_lines(stage.folder / "examples.jsonl")][:MAX_CHATS]
    if examples:
        blocks.append(Excerpts("Examples", tuple(examples), source="align/examples.jsonl"))
    else:
        blocks.append(Note("Not recorded: no align/examples.jsonl in this run.", tone="quiet"))
    return Section("chat", title, blocks, lead)


def _share_words(share: Any, num_items: Any) -> str:
    """The 95 % interval of a share of the questions asked."""
    found = interval_of({"accuracy": share, "num_items": num_items})
    return f"{100 * found[0]:.1f} to {100 * found[1]:.1f} % (95 %)" if found else ""


def _chat(line: Mapping[str, Any]) -> Excerpt:
    messages = line.get("messages")
    question = str(line.get("prompt") or line.get("question") or "")
    if not question and isinstance(messages, list):
        asked = [m for m in messages if isinstance(m, Mapping) and m.get("role") == "user"]
        question = str(asked[-1].get("content", "")) if asked else ""
    expected, correct = line.get("expected"), line.get("correct")
    note = f"expected: {expected}" if expected and correct is not True else ""
    label = {True: "correct", False: "wrong"}[correct] if isinstance(correct, bool) else ""
    tone: Any = {"correct": "good", "wrong": "warn"}.get(label, "")
    return Excerpt(
        label, str(line.get("answer", "")), prompt=question, note=note, tone=tone, is_answer=True
    )


def quantized_section(run: RunRecord) -> Section:
    """Size of each quantized file, and how much it lost."""
    title = "Quantized files"
    lead = (
        "Each file was loaded again and compared with the original on a sample of held-out text. "
        "These bits per byte are of that sample: only their increase compares with other figures."
    )
    stage = run.stage("quantize")
    if stage is None:
        return not_run("quantized", title, "quantize", lead)
    rows = []
    for name, found in stage.manifest.metrics.items():
        if not isinstance(found, Mapping):
            continue
        growth, same = found.get("sample_bits_per_byte_increase"), found.get("same_best_token")
        rows.append(
            (
                Cell(name),
                Cell(size(found.get("size_bytes"))),
                Cell(decimal(found.get("sample_bits_per_byte"), 4)),
                Cell(percent(growth, 2) if is_number(growth) else "–"),
                Cell(percent(same, 2) if is_number(same) else "–"),
            )
        )
    table = Table(
        "quantized",
        f"Size and loss on {count(stage.count('tokens_compared'))} held-out tokens",
        (
            Column("file"),
            *numbers("size", "bits per byte of the sample", "increase", "same top token"),
        ),
        tuple(rows),
        "quantize/manifest.json",
    )
    return Section("quantized", title, (table,), lead)
