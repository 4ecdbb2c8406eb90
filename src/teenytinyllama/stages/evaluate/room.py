"""The evaluate room: what is scored, in which order, and where each score goes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from teenytinyllama.context import RoomContext
from teenytinyllama.errors import UserError
from teenytinyllama.formats.documents import Document, read_documents
from teenytinyllama.formats.encoding import TextEncoder, load_tokenizer
from teenytinyllama.formats.manifest import Outcome, write_json
from teenytinyllama.formats.tokens import open_tokens
from teenytinyllama.progress import Progress, say
from teenytinyllama.recipe import EvaluateSettings
from teenytinyllama.stages.evaluate.bigram import train_bigram
from teenytinyllama.stages.evaluate.compressors import compressed_bits_per_byte
from teenytinyllama.stages.evaluate.definitions import Benchmark, load_benchmark
from teenytinyllama.stages.evaluate.models import LoadedModel, folder_name, load_model
from teenytinyllama.stages.evaluate.overlap import OverlapCheck
from teenytinyllama.stages.evaluate.run_tasks import score_task
from teenytinyllama.training.heldout import EncodedDocument, HeldoutScore, score_documents

BASE = "base"
HEADLINES = ("accuracy", "standard_error", "chance", "num_items", "at_chance", "interval95")


def run(
    *,
    settings: EvaluateSettings,
    context: RoomContext,
    out_dir: Path,
    corpus_dir: Path,
    tokenizer_dir: Path,
    pack_dir: Path,
    pretrain_dir: Path,
) -> Outcome:
    """Score the base model on held-out text and on the recipe's tasks.

    Everything that can be wrong with a task is found before the first model is loaded.
    """
    benchmarks = [
        load_benchmark(task, {"num_fewshot": task.num_fewshot} if task.num_fewshot >= 0 else None)
        for task in settings.tasks
    ]
    encoder = load_tokenizer(tokenizer_dir)
    documents = list(_heldout(settings, corpus_dir))
    yardsticks = _yardsticks(settings, documents, encoder, pack_dir)
    write_json(out_dir / "yardsticks.json", yardsticks)
    overlap = _overlap(settings, benchmarks, documents, corpus_dir)
    write_json(out_dir / "overlap.json", overlap)

    loaded = load_model(BASE, pretrain_dir / "final", precision=settings.precision)
    heldout = score_documents(
        loaded.model,
        _encoded(documents, encoder),
        context_length=loaded.context_length,
        batch_tokens=settings.batch_tokens,
        num_documents=len(documents),
    )
    figures = _heldout_figures(heldout, yardsticks, overlap)
    _check_finite(figures["heldout_bits_per_byte"], pretrain_dir)
    (out_dir / BASE).mkdir(exist_ok=True)
    write_json(out_dir / BASE / "heldout.json", figures)
    figures["tasks"] = _score_tasks(settings, loaded, benchmarks, overlap, out_dir)
    _say_summary(figures)
    counts = {
        "documents_heldout": heldout.overall.num_documents,
        "tokens_scored": heldout.overall.num_tokens,
        "bytes_scored": heldout.overall.num_bytes,
        "tasks": len(benchmarks),
        "items": sum(len(benchmark.scored_items) for benchmark in benchmarks),
    }
    return Outcome(counts, figures)


def _heldout(settings: EvaluateSettings, corpus_dir: Path) -> Iterator[Document]:
    for number, document in enumerate(read_documents(corpus_dir, "heldout")):
        if settings.max_heldout_documents and number >= settings.max_heldout_documents:
            return
        yield document


def _encoded(documents: list[Document], encoder: TextEncoder) -> Iterator[EncodedDocument]:
    for document in documents:
        ids = np.array(encoder.encode_document(document.text), dtype=np.int64)
        yield EncodedDocument(ids, document.num_bytes, document.source)


def _yardsticks(
    settings: EvaluateSettings, documents: list[Document], encoder: TextEncoder, pack_dir: Path
) -> dict[str, float]:
    """Bits per byte of a bigram model and of two compressors on the same held-out text."""
    train = open_tokens(pack_dir, "train")
    bigram = train_bigram(train.tokens, train.vocab_size, max_tokens=settings.max_bigram_tokens)
    nats = sum(bigram.nats(document.ids) for document in _encoded(documents, encoder))
    num_bytes = sum(document.num_bytes for document in documents)
    return {
        "bigram_bits_per_byte": nats / math.log(2) / num_bytes if num_bytes else math.nan,
        "bigram_tokens": float(min(train.num_tokens, settings.max_bigram_tokens)),
        **compressed_bits_per_byte(document.text for document in documents),
    }


def _overlap(
    settings: EvaluateSettings,
    benchmarks: list[Benchmark],
    documents: list[Document],
    corpus_dir: Path,
) -> dict[str, Any]:
    """Held-out documents and test items that stand in the training text."""
    if not settings.check_overlap:
        return {"checked": False}
    check = OverlapCheck()
    for document in documents:
        check.add_heldout(document.id, document.text)
    for benchmark in benchmarks:
        for item in benchmark.scored_items:
            question = str(item.get("question") or item.get("context") or "")
            check.add_item(benchmark.name, [question, *item.get("choices", ())])
    with Progress("evaluate: overlap with the training text", unit="documents") as progress:

        def texts() -> Iterator[str]:
            for document in read_documents(corpus_dir, "train"):
                progress.advance()
                yield document.text

        leaks, contamination = check.read_training(texts())
    say(
        f"evaluate: of {leaks.num_documents:,} held-out documents {leaks.num_exact} stand in the "
        f"training text word for word, {leaks.num_near} nearly so"
    )
    return {
        "checked": True,
        "heldout_leaks_exact": leaks.num_exact,
        "heldout_leaks_near": leaks.num_near,
        "heldout_leaks_examples": leaks.examples,
        "tasks": {
            name: {
                "contaminated_items": found.num_contaminated,
                "contaminated_fraction": found.fraction,
                "items_too_short_to_check": found.num_too_short,
            }
            for name, found in contamination.items()
        },
    }


def _heldout_figures(
    heldout: HeldoutScore, yardsticks: dict[str, float], overlap: dict[str, Any]
) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "heldout_bits_per_byte": heldout.bits_per_byte,
        "heldout_perplexity": heldout.perplexity,
        **{name: value for name, value in yardsticks.items() if name.endswith("per_byte")},
        "below_bigram_fraction": 1 - heldout.bits_per_byte / yardsticks["bigram_bits_per_byte"],
        "by_source": {
            name: {
                "heldout_bits_per_byte": part.bits_per_byte,
                "heldout_perplexity": part.perplexity,
                "documents": part.num_documents,
                "tokens": part.num_tokens,
                "bytes": part.num_bytes,
            }
            for name, part in sorted(heldout.by_source.items())
        },
    }
    figures.update({k: v for k, v in overlap.items() if k in _LEAKS})
    return figures


_LEAKS = ("heldout_leaks_exact", "heldout_leaks_near")


def _check_finite(bits_per_byte: float, pretrain_dir: Path) -> None:
    if not math.isfinite(bits_per_byte):
        raise UserError(
            "heldout-not-finite",
            str(pretrain_dir / "final"),
            f"held-out bits per byte is {bits_per_byte}",
            "the weights are damaged or the training diverged; look at metrics.jsonl",
        )


def _score_tasks(
    settings: EvaluateSettings,
    loaded: LoadedModel,
    benchmarks: list[Benchmark],
    overlap: dict[str, Any],
    out_dir: Path,
) -> dict[str, Any]:
    log_dir = out_dir.parent / ".cache" / "evaluate" if settings.reuse_answers else None
    figures = {}
    folder = out_dir / folder_name(loaded.name)
    folder.mkdir(exist_ok=True)
    for benchmark in benchmarks:
        result = score_task(loaded, benchmark, row_tokens=settings.batch_tokens, log_dir=log_dir)
        found = overlap.get("tasks", {}).get(benchmark.name, {})
        write_json(folder / f"{folder_name(benchmark.name)}.json", {**result, **found})
        figures[benchmark.name] = {
            **{name: result[name] for name in HEADLINES},
            "right_answer_perplexity": result["right_answer_perplexity"],
            **({"contaminated_fraction": found["contaminated_fraction"]} if found else {}),
        }
    return figures


def _say_summary(figures: dict[str, Any]) -> None:
    say(
        f"evaluate: held-out {figures['heldout_bits_per_byte']:.4f} bits per byte "
        f"(bigram {figures['bigram_bits_per_byte']:.4f})"
    )
    for name, found in figures["tasks"].items():
        low, high = found["interval95"]
        mark = ", at chance" if found["at_chance"] else ""
        say(
            f"evaluate: {name} {100 * found['accuracy']:.1f} % "
            f"({100 * low:.1f} to {100 * high:.1f}; chance {100 * found['chance']:.1f}{mark})"
        )
