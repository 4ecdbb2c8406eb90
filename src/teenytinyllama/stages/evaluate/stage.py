"""The evaluate stage: what is scored, in which order, and where each score goes."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from teenytinyllama import hardware
from teenytinyllama.artifacts.documents import Document, read_documents
from teenytinyllama.artifacts.manifest import MANIFEST_NAME, fingerprint_of, sha256_file, write_json
from teenytinyllama.artifacts.tokenizer import TextEncoder, load_tokenizer
from teenytinyllama.artifacts.tokens import open_tokens
from teenytinyllama.errors import UserError
from teenytinyllama.inference.bits_per_byte import EncodedDocument, HeldoutScore, score_documents
from teenytinyllama.inference.onednn_linear import faster_linear
from teenytinyllama.process_group import ProcessGroup
from teenytinyllama.settings.post_training import EvaluateSettings
from teenytinyllama.stages.evaluate import task_runner
from teenytinyllama.stages.evaluate.baselines import compressed_bits_per_byte, train_bigram
from teenytinyllama.stages.evaluate.benchmark import Benchmark
from teenytinyllama.stages.evaluate.contamination import (
    COPY_NGRAM,
    ITEM_NGRAM,
    NEAR_COPY_SHARE,
    check_contamination,
    log_contamination,
)
from teenytinyllama.stages.evaluate.intervals import ratio_interval95
from teenytinyllama.stages.evaluate.result_cache import (
    documents_fingerprint,
    load_or_compute,
    stage_fingerprint,
    text_fingerprint,
)
from teenytinyllama.stages.evaluate.scored_models import ScoredModel, folder_name, load_model
from teenytinyllama.stages.evaluate.suites import load_benchmarks
from teenytinyllama.stages.interface import StageContext, StageResult
from teenytinyllama.training.checkpoints import MODEL_NAME, list_checkpoints

logger = logging.getLogger(__name__)

BASE = "base"  # the folder of the base model's scores
HELDOUT_REVISION = 2  # grows when the same text and model may get other bits
MIN_DOCUMENTS = 20  # fewer give no interval of their own, and a warning
TASK_METRICS = (  # of each task, in the manifest; its own file has more
    "accuracy",
    "metric",
    "standard_error",
    "interval95",
    "chance",
    "at_chance",
    "num_items",
    "num_ties",
    "num_equal_choices",
    "num_truncated",
    "normalized",
    "length_rule",
    "right_answer_perplexity",
    "right_answer_bits_per_byte",
)


def run(
    *,
    settings: EvaluateSettings,
    context: StageContext,
    out_dir: Path,
    corpus_dir: Path,
    tokenizer_dir: Path,
    pack_dir: Path,
    pretrain_dir: Path,
) -> StageResult:
    """Score the base model on held-out text and on the recipe's tasks.

    Tasks are checked before the first model is loaded.
    """
    heldout = read_documents(corpus_dir, "heldout")
    documents = list(islice(heldout, settings.max_heldout_documents or None))
    _warn_of_little_text(documents)
    benchmarks = load_benchmarks(settings.tasks, context.language, documents)
    checkpoints = _checkpoints(settings, pretrain_dir)
    _check_folders(settings.models, checkpoints)
    encoder = load_tokenizer(tokenizer_dir)
    texts = documents_fingerprint(documents)
    by_one_process: tuple[Callable[[], dict[str, Any]], ...] = (  # each of them
        lambda: load_or_compute(
            out_dir / "baselines.json",
            {
                "texts": texts,
                "tokenizer": encoder.fingerprint,
                "tokens": stage_fingerprint(pack_dir),
                "max_bigram_tokens": settings.max_bigram_tokens,
            },
            lambda: _baselines(settings, documents, encoder, pack_dir),
        ),
        lambda: _overlap(settings, benchmarks, documents, texts, corpus_dir, out_dir),
    )
    processes = context.processes
    baselines, overlap = processes.collect([work() for work in processes.share(by_one_process)])
    log_contamination(overlap)

    scorer = _ModelScorer(settings, out_dir, benchmarks, overlap, documents, texts, processes)
    with hardware.keeping_freed_memory(hardware.present_device()):
        metrics = scorer.score(BASE, pretrain_dir / "final", encoder)
        metrics = {**_comparison(metrics, baselines, overlap), **metrics}
        metrics["heldout_text"] = text_fingerprint(documents)  # the same: scores can be compared
        metrics["models"] = {
            folder_name(name): scorer.score(folder_name(name), name, None)
            for name in settings.models
        }
        metrics["checkpoints"] = [
            {**_progress_of(path), **scorer.score(path.name, path, encoder)} for path in checkpoints
        ]
    counts = {
        "documents_heldout": len(documents),
        "tokens_scored": metrics["tokens_scored"],
        "bytes_scored": sum(document.num_bytes for document in documents),
        "tasks": len(benchmarks),
        "items": sum(len(benchmark.scored_items) for benchmark in benchmarks),
    }
    return StageResult(counts, metrics)


@dataclass(frozen=True)
class _ModelScorer:
    """What every model of this run is scored on."""

    settings: EvaluateSettings
    out_dir: Path
    benchmarks: list[Benchmark]
    overlap: dict[str, Any]
    documents: list[Document]
    texts: str  # fingerprint of the documents
    processes: ProcessGroup  # all of which score; the leader writes

    def score(self, name: str, place: str | Path, encoder: TextEncoder | None) -> dict[str, Any]:
        """One model's metrics; with `encoder` None it has a tokenizer of its own."""
        scored = load_model(name, place, precision=self.settings.precision)
        folder = self.out_dir / name
        folder.mkdir(exist_ok=True)
        metrics = load_or_compute(
            folder / "heldout.json",
            {
                "revision": HELDOUT_REVISION,
                "model": scored.identity,
                "tokenizer": encoder.fingerprint if encoder else None,
                "texts": self.texts,
                "context_length": scored.context_length,
                "batch_tokens": self.settings.batch_tokens,
            },
            lambda: self._score_heldout(scored, place, encoder),
            self.processes,
        )
        _log_heldout(name, metrics)
        if count := metrics.get("num_unknown_tokens"):  # cheap to predict, and text is lost
            logger.info(
                f"evaluate: {name}: {count:,} tokens of the held-out text are unknown to its "
                "tokenizer; its bits per byte are too low to compare"
            )
        metrics["tasks"] = {}
        for group in task_runner.group_tasks(self.benchmarks):
            metrics["tasks"].update(self._score_group(scored, group, folder))
        return metrics

    def _score_heldout(
        self, scored: ScoredModel, place: str | Path, encoder: TextEncoder | None
    ) -> dict[str, Any]:
        with faster_linear(scored.model):
            heldout = score_documents(
                scored.model,
                _encoded(self.documents, encoder or scored),
                context_length=scored.context_length,
                batch_tokens=self.settings.batch_tokens,
                num_documents=len(self.documents),
                processes=self.processes,
            )
        if not math.isfinite(heldout.bits_per_byte):
            raise UserError(
                "heldout-not-finite",
                str(place),
                f"held-out bits per byte is {heldout.bits_per_byte}",
                "the weights are damaged or the training diverged; look at metrics.jsonl",
            )
        metrics = _heldout_metrics(heldout)
        if encoder is None:
            metrics["num_unknown_tokens"] = scored.count_unknown(d.text for d in self.documents)
        return metrics

    def _score_group(
        self, scored: ScoredModel, group: list[Benchmark], folder: Path
    ) -> dict[str, Any]:
        keeps = self.settings.reuse_answers
        results = task_runner.score_tasks(
            scored,
            group,
            batch_tokens=self.settings.batch_tokens,
            cache_dir=self.out_dir.parent / ".cache" / "evaluate" if keeps else None,
            processes=self.processes,
        )
        metrics = {}
        for benchmark, result in zip(group, results, strict=True):
            contamination = self.overlap.get("tasks", {}).get(benchmark.name, {})
            path = folder / f"{folder_name(benchmark.name)}.json"
            if self.processes.is_leader:
                write_json(path, {**result, **contamination})
            metrics[benchmark.name] = {name: result[name] for name in TASK_METRICS} | contamination
            _log_score(scored.name, benchmark.name, result)
        return metrics


def _checkpoints(settings: EvaluateSettings, pretrain_dir: Path) -> list[Path]:
    """Every checkpoint that the training kept, oldest first, if the recipe asks for them."""
    if not settings.checkpoints:
        return []
    found = [path for _, path in list_checkpoints(pretrain_dir)]
    if not found:
        raise UserError(
            "checkpoints-missing",
            str(pretrain_dir),
            "evaluate.checkpoints = true, but there is no step-* folder",
            "set pretrain.checkpoints.permanent_every_steps and train again",
        )
    for path in found:
        _check_checkpoint(path)
    return found


def _check_checkpoint(path: Path) -> None:
    """Raise UserError where a checkpoint's model is not the one that was saved."""
    try:
        written = json.loads((path / MANIFEST_NAME).read_bytes())["files"][MODEL_NAME]["sha256"]
        is_whole = sha256_file(path / MODEL_NAME) == written
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        is_whole = False
    if not is_whole:
        what = f"its {MODEL_NAME} or {MANIFEST_NAME} changed since they were written"
        fix = "remove that folder, or set evaluate.checkpoints = false"
        raise UserError("checkpoint-damaged", str(path), what, fix)


def _progress_of(path: Path) -> dict[str, Any]:
    """Step, tokens and energy at a checkpoint."""
    progress = json.loads((path / "state.json").read_text(encoding="utf-8"))["progress"]
    return {name: progress[name] for name in ("step", "tokens", "energy")}


def _encoded(
    documents: list[Document], encoder: TextEncoder | ScoredModel
) -> Iterator[EncodedDocument]:
    for document in documents:
        ids = np.array(encoder.encode_document(document.text), dtype=np.int64)
        yield EncodedDocument(ids, document.num_bytes, document.source)


def _baselines(
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
    texts: str,
    corpus_dir: Path,
    out_dir: Path,
) -> dict[str, Any]:
    """Held-out documents and test items that also occur in the training text."""
    path = out_dir / "overlap.json"
    if not settings.check_overlap:
        write_json(path, {"checked": False})
        return {"checked": False}
    depends_on = {
        "texts": texts,
        "training": stage_fingerprint(corpus_dir),
        "items": {one.name: fingerprint_of(one.scored_items) for one in benchmarks},
        "ngrams": [ITEM_NGRAM, COPY_NGRAM, NEAR_COPY_SHARE],
    }
    return load_or_compute(
        path, depends_on, lambda: check_contamination(benchmarks, documents, corpus_dir)
    )


def _check_folders(models: tuple[str, ...], checkpoints: list[Path]) -> None:
    """Raise UserError where two models would share a folder of scores, on any file system."""
    taken = {BASE, *(path.name for path in checkpoints)}
    for name in models:
        folder = folder_name(name).lower()
        if folder in taken:
            raise UserError(
                "model-name",
                f"evaluate.models {name}",
                f'its scores would go to the folder "{folder}", which has those of another',
                "name it once, or give its folder another name",
            )
        taken.add(folder)


def _heldout_metrics(heldout: HeldoutScore) -> dict[str, Any]:
    return {
        "heldout_bits_per_byte": heldout.bits_per_byte,
        "heldout_perplexity": heldout.perplexity,
        **_interval(heldout),
        "tokens_scored": heldout.overall.num_tokens,
        "by_source": {
            name: {
                "heldout_bits_per_byte": part.bits_per_byte,
                **_interval(heldout, name),
                "heldout_perplexity": part.perplexity,
                "documents": part.num_documents,
                "tokens": part.num_tokens,
                "bytes": part.num_bytes,
            }
            for name, part in sorted(heldout.by_source.items())
        },
    }


def _interval(heldout: HeldoutScore, source: str | None = None) -> dict[str, Any]:
    """95 % interval of bits per byte over documents, or over windows where there are few.

    Windows of one text are alike, so that theirs is an interval for more text of the same kind.
    """
    nats, sizes = heldout.by_document(source)
    units = "documents"
    if len(sizes) < MIN_DOCUMENTS:
        nats, sizes = heldout.by_window(source)
        units = "windows"
    found = ratio_interval95([one / math.log(2) for one in nats], sizes)
    return {
        "heldout_bits_per_byte_interval95": list(found) if found else None,
        "heldout_interval_over": units,
    }


def _log_heldout(name: str, metrics: dict[str, Any]) -> None:
    found = metrics["heldout_bits_per_byte_interval95"]
    ends = f" ({found[0]:.4f} to {found[1]:.4f})" if found else ""
    logger.info(
        f"evaluate: {name}: held-out {metrics['heldout_bits_per_byte']:.4f}{ends} bits per byte"
    )


def _warn_of_little_text(documents: list[Document]) -> None:
    if len(documents) >= MIN_DOCUMENTS:
        return
    num_bytes = sum(document.num_bytes for document in documents)
    logger.warning(
        f"evaluate: the held-out text is {len(documents)} documents, {num_bytes:,} bytes: its bits "
        "per byte say little of other text (raise corpus.heldout_fraction, or add text)"
    )


def _comparison(
    metrics: dict[str, Any], baselines: dict[str, float], overlap: dict[str, Any]
) -> dict[str, Any]:
    """Baselines and overlap, which the base model's held-out score is read against."""
    bigram = baselines["bigram_bits_per_byte"]
    logger.info(f"evaluate: for comparison, a bigram model: {bigram:.4f}")
    copies = ("heldout_leaks_exact", "heldout_leaks_near")
    return {
        **{name: value for name, value in baselines.items() if name.endswith("per_byte")},
        "below_bigram_fraction": 1 - metrics["heldout_bits_per_byte"] / bigram,
        **{name: overlap[name] for name in copies if name in overlap},
    }


def _log_score(model: str, task: str, result: dict[str, Any]) -> None:
    low, high = result["interval95"]
    equal, ties = result["num_equal_choices"], result["num_ties"]
    mark = ", at chance" if result["at_chance"] else ""
    normalized = result["normalized"]
    is_other = normalized is not None and normalized["metric"] != result["metric"]
    logger.info(
        f"evaluate: {model}: {task} {100 * result['accuracy']:.1f} % "
        f"({100 * low:.1f} to {100 * high:.1f}; chance {100 * result['chance']:.1f}{mark})"
        + (
            f"; {100 * normalized['accuracy']:.1f} % by likelihood per character"
            if is_other
            else ""
        )
        + (f"; {ties:,} of {result['num_items']:,} items are ties" if ties else "")
        + (f"; {equal:,} items have equal choices" if equal else "")
    )
