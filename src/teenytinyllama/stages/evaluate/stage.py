"""The evaluate stage: what is scored, in which order, and where each score goes."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from teenytinyllama import hardware
from teenytinyllama.artifacts.documents import Document, read_documents
from teenytinyllama.artifacts.manifest import fingerprint_of, write_json
from teenytinyllama.artifacts.tokenizer import TextEncoder, load_tokenizer
from teenytinyllama.artifacts.tokens import open_tokens
from teenytinyllama.errors import UserError
from teenytinyllama.inference.bits_per_byte import EncodedDocument, HeldoutScore, score_documents
from teenytinyllama.inference.onednn_linear import faster_linear
from teenytinyllama.settings.post_training import EvaluateSettings
from teenytinyllama.stages.evaluate import task_runner
from teenytinyllama.stages.evaluate.baselines import train_bigram
from teenytinyllama.stages.evaluate.benchmark import Benchmark
from teenytinyllama.stages.evaluate.compressors import compressed_bits_per_byte
from teenytinyllama.stages.evaluate.contamination import ITEM_RUN_WORDS, NEAR_RUN_WORDS, NEAR_SHARE
from teenytinyllama.stages.evaluate.heldout_overlap import check_overlap, say_overlap
from teenytinyllama.stages.evaluate.result_cache import identity_of, keep, made_in
from teenytinyllama.stages.evaluate.scored_models import LoadedModel, folder_name, load_model
from teenytinyllama.stages.evaluate.suites import load_benchmarks
from teenytinyllama.stages.interface import StageContext, StageResult
from teenytinyllama.training.checkpoints import list_checkpoints

logger = logging.getLogger(__name__)


BASE = "base"
HELDOUT_REVISION = 1  # grows when the same text and model may get other bits
HEADLINES = (
    "accuracy",
    "metric",
    "standard_error",
    "interval95",
    "chance",
    "at_chance",
    "num_items",
    "num_equal_choices",
    "num_truncated",
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

    Everything that can be wrong with a task is found before the first model is loaded.
    """
    documents = list(_heldout(settings, corpus_dir))
    benchmarks = load_benchmarks(settings.tasks, context.language, documents)
    checkpoints = _checkpoints(settings, pretrain_dir)
    _check_names(settings.models, checkpoints)
    encoder = load_tokenizer(tokenizer_dir)
    texts = identity_of(documents)
    baselines = keep(
        out_dir / "baselines.json",
        {
            "texts": texts,
            "tokenizer": encoder.fingerprint,
            "tokens": made_in(pack_dir),
            "max_bigram_tokens": settings.max_bigram_tokens,
        },
        lambda: _baselines(settings, documents, encoder, pack_dir),
    )
    overlap = _overlap(settings, benchmarks, documents, texts, corpus_dir, out_dir)
    say_overlap(overlap)

    stage = _Stage(settings, out_dir, benchmarks, overlap, documents, texts)
    with hardware.keeping_freed_memory(hardware.present_device()):
        metrics = stage.score(BASE, pretrain_dir / "final", encoder)
        metrics = {**_beside(metrics, baselines, overlap), **metrics}
        metrics["models"] = {
            folder_name(name): stage.score(folder_name(name), name, None)
            for name in settings.models
        }
        metrics["checkpoints"] = [
            {**_progress_of(path), **stage.score(path.name, path, encoder)} for path in checkpoints
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
class _Stage:
    """What every model of this run is scored on."""

    settings: EvaluateSettings
    out_dir: Path
    benchmarks: list[Benchmark]
    overlap: dict[str, Any]
    documents: list[Document]
    texts: str

    def score(self, name: str, place: str | Path, encoder: TextEncoder | None) -> dict[str, Any]:
        """One model's figures; `encoder` None: the model brings its own tokenizer."""
        loaded = load_model(name, place, precision=self.settings.precision)
        folder = self.out_dir / name
        folder.mkdir(exist_ok=True)
        metrics = keep(
            folder / "heldout.json",
            {
                "revision": HELDOUT_REVISION,
                "model": loaded.identity,
                "tokenizer": encoder.fingerprint if encoder else None,
                "texts": self.texts,
                "context_length": loaded.context_length,
                "batch_tokens": self.settings.batch_tokens,
            },
            lambda: self._score_heldout(loaded, place, encoder),
        )
        logger.info(
            f"evaluate: {name}: held-out {metrics['heldout_bits_per_byte']:.4f} bits per byte"
        )
        _say_unknown(name, metrics)
        metrics["tasks"] = {}
        for group in task_runner.group(self.benchmarks):
            metrics["tasks"].update(self._score_group(loaded, group, folder))
        return metrics

    def _score_heldout(
        self, loaded: LoadedModel, place: str | Path, encoder: TextEncoder | None
    ) -> dict[str, Any]:
        with faster_linear(loaded.model):
            heldout = score_documents(
                loaded.model,
                _encoded(self.documents, encoder or loaded),
                context_length=loaded.context_length,
                batch_tokens=self.settings.batch_tokens,
                num_documents=len(self.documents),
            )
        metrics = _heldout_figures(heldout)
        _check_finite(metrics["heldout_bits_per_byte"], place)
        if encoder is None:
            metrics["num_unknown_tokens"] = loaded.count_unknown(d.text for d in self.documents)
        return metrics

    def _score_group(
        self, loaded: LoadedModel, group: list[Benchmark], folder: Path
    ) -> dict[str, Any]:
        keeps = self.settings.reuse_answers
        results = task_runner.score_tasks(
            loaded,
            group,
            batch_tokens=self.settings.batch_tokens,
            log_dir=self.out_dir.parent / ".cache" / "evaluate" if keeps else None,
        )
        metrics = {}
        for benchmark, result in zip(group, results, strict=True):
            found = self.overlap.get("tasks", {}).get(benchmark.name, {})
            write_json(folder / f"{folder_name(benchmark.name)}.json", {**result, **found})
            shown = {name: result[name] for name in HEADLINES}
            shown.update(found)
            metrics[benchmark.name] = shown
            _say_score(loaded.name, benchmark.name, shown)
        return metrics


def _checkpoints(settings: EvaluateSettings, pretrain_dir: Path) -> list[Path]:
    """Every checkpoint that the training kept, oldest first, where the recipe asks for them."""
    if not settings.checkpoints:
        return []
    found = [path for _, path in list_checkpoints(pretrain_dir)]
    if not found:
        raise UserError(
            "checkpoints-missing",
            str(pretrain_dir),
            "evaluate.checkpoints = true, and no step-* folder is here",
            "set pretrain.checkpoints.permanent_every_steps and train again",
        )
    return found


def _progress_of(path: Path) -> dict[str, Any]:
    """Step, tokens and energy of a checkpoint, as its training noted them."""
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    progress = state["progress"]
    return {"step": progress["step"], "tokens": progress["tokens"], "energy": progress["energy"]}


def _heldout(settings: EvaluateSettings, corpus_dir: Path) -> Iterator[Document]:
    for number, document in enumerate(read_documents(corpus_dir, "heldout")):
        if settings.max_heldout_documents and number >= settings.max_heldout_documents:
            return
        yield document


def _encoded(
    documents: list[Document], encoder: TextEncoder | LoadedModel
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
    """Held-out documents and test items that stand in the training text."""
    path = out_dir / "overlap.json"
    if not settings.check_overlap:
        write_json(path, {"checked": False})
        return {"checked": False}
    of = {
        "texts": texts,
        "training": made_in(corpus_dir),
        "items": {one.name: fingerprint_of(one.scored_items) for one in benchmarks},
        "runs": [ITEM_RUN_WORDS, NEAR_RUN_WORDS, NEAR_SHARE],
    }
    return keep(path, of, lambda: check_overlap(benchmarks, documents, corpus_dir))


def _check_names(models: tuple[str, ...], checkpoints: list[Path]) -> None:
    """Each model needs a folder of its own in the scores, whatever the file system."""
    taken = {BASE, *(path.name for path in checkpoints)}
    for name in models:
        folder = folder_name(name).lower()
        if folder in taken:
            raise UserError(
                "model-name",
                f"evaluate.models {name}",
                f'its scores would go to the folder "{folder}", which holds others',
                "name it once, or give its folder another name",
            )
        taken.add(folder)


def _heldout_figures(heldout: HeldoutScore) -> dict[str, Any]:
    return {
        "heldout_bits_per_byte": heldout.bits_per_byte,
        "heldout_perplexity": heldout.perplexity,
        "tokens_scored": heldout.overall.num_tokens,
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


def _beside(
    metrics: dict[str, Any], baselines: dict[str, float], overlap: dict[str, Any]
) -> dict[str, Any]:
    """The baselines and leaks that belong beside the base model's held-out score."""
    bigram = baselines["bigram_bits_per_byte"]
    logger.info(f"evaluate: a bigram model needs {bigram:.4f} bits per byte")
    return {
        **{name: value for name, value in baselines.items() if name.endswith("per_byte")},
        "below_bigram_fraction": 1 - metrics["heldout_bits_per_byte"] / bigram,
        **{name: overlap[name] for name in _LEAKS if name in overlap},
    }


_LEAKS = ("heldout_leaks_exact", "heldout_leaks_near")


def _check_finite(bits_per_byte: float, place: str | Path) -> None:
    if not math.isfinite(bits_per_byte):
        raise UserError(
            "heldout-not-finite",
            str(place),
            f"held-out bits per byte is {bits_per_byte}",
            "the weights are damaged or the training diverged; look at metrics.jsonl",
        )


def _say_unknown(model: str, metrics: dict[str, Any]) -> None:
    """A token for "unknown" is cheap to predict and stands for lost text."""
    if count := metrics.get("num_unknown_tokens"):
        logger.info(
            f"evaluate: {model}: its tokenizer does not know {count:,} pieces "
            "of the held-out text: its bits per byte are too low to compare"
        )


def _say_score(model: str, task: str, found: dict[str, Any]) -> None:
    low, high = found["interval95"]
    equal = found["num_equal_choices"]
    mark = ", at chance" if found["at_chance"] else ""
    logger.info(
        f"evaluate: {model}: {task} {100 * found['accuracy']:.1f} % "
        f"({100 * low:.1f} to {100 * high:.1f}; chance {100 * found['chance']:.1f}{mark})"
        + (f"; {equal:,} items have equal choices" if equal else "")
    )
