"""`ttl classify`: label the texts of new files with a finished classifier."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification

from teenytinyllama.artifacts.file_hashes import verify_model
from teenytinyllama.artifacts.model_folder import check_model_folder
from teenytinyllama.artifacts.records import read_records
from teenytinyllama.artifacts.tokenizer import load_tokenizer, tokenizer_file
from teenytinyllama.errors import UserError, did_you_mean
from teenytinyllama.hardware import present_device
from teenytinyllama.modeling.loading import load_whole
from teenytinyllama.stages.finetune.classification_task import predict
from teenytinyllama.stages.finetune.labelled_dataset import Example
from teenytinyllama.stages.finetune.length_grouping import encode_with

logger = logging.getLogger(__name__)


CLASSIFIER_NAME = "classifier.json"
RECORDS_PER_BATCH = 1000
TRAIN_AGAIN = "run `ttl finetune RECIPE --redo`"
NO_LABEL = {"predicted": None, "probability": None}


def run(*, model: Path, files: Sequence[Path], task: str = "", columns: Sequence[str] = ()) -> None:
    """Write every record of the files with `predicted` and `probability`, as JSON lines.

    `model` is a run with a finetune stage, a task's folder or a classifier's folder. A `.txt` is
    read line by line; tables and JSON lines by the columns that the classifier was trained on,
    unless `columns` names others. There is one output line per record, in order; an empty text gets
    null for a label. Raises UserError with the place of the first broken record.
    """
    folder = find_classifier(model, task)
    verify_model(folder)
    trained_on, max_length = _read_classifier_file(folder)
    check_model_folder(folder)
    names = list(columns) or trained_on
    if len(names) != len(trained_on):
        what = f"{len(names)} columns named, the classifier reads {len(trained_on)}"
        raise UserError("columns", "--column", what, "name as many")
    encoder = load_tokenizer(folder)
    encode = encode_with(encoder, max_length)
    classifier = load_whole(
        AutoModelForSequenceClassification, folder, local_files_only=True, fix=TRAIN_AGAIN
    )
    classifier.to(present_device()).eval()
    num_texts, num_cut, num_empty = 0, 0, 0
    for records in _batches(files, names):
        rows = [encode(Example(texts, -1)) for texts, _ in records if all(texts)]
        found = iter(predict(classifier, rows, encoder.pad_id))
        for texts, fields in records:
            label = _label(next(found), classifier.config.id2label) if all(texts) else NO_LABEL
            line = json.dumps({**fields, **label}, ensure_ascii=False, default=str)
            sys.stdout.write(line + "\n")
        num_texts += len(rows)
        num_empty += len(records) - len(rows)
        num_cut += sum(row.was_cut for row in rows)
    empty = f", {num_empty} empty, without a label" if num_empty else ""
    logger.info(f"{num_texts} texts labelled, {num_cut} cut at {max_length} tokens{empty}")


def _label(logits: NDArray[Any], labels: Mapping[int, str]) -> dict[str, Any]:
    best = int(np.argmax(logits))
    weights = np.exp(logits - logits.max())
    return {
        "predicted": labels[best],
        "probability": round(float(weights[best] / weights.sum()), 6),
    }


def _read_classifier_file(folder: Path) -> tuple[list[str], int]:
    """The columns that a classifier reads, and its maximum length in tokens."""
    path = folder / CLASSIFIER_NAME
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        return [str(name) for name in about["text_columns"]], int(about["max_length"])
    except (ValueError, KeyError, TypeError) as error:
        what = f"is damaged ({type(error).__name__}: {error})"
        raise UserError("model-damaged", str(path), what, TRAIN_AGAIN) from error


def find_classifier(path: Path, task: str) -> Path:
    """The folder of a classifier, given a run, a finetune folder, a task's folder or itself."""
    for folder in (path, path / "final"):
        if (folder / CLASSIFIER_NAME).is_file() and tokenizer_file(folder).is_file():
            return folder
    stage = path / "finetune" if (path / "finetune").is_dir() else path
    found = {p.parent.parent.name: p.parent for p in stage.glob(f"*/final/{CLASSIFIER_NAME}")}
    if task in found:
        return found[task]
    if not task and len(found) == 1:
        return next(iter(found.values()))
    if not found:
        what = "no classifier here" if path.exists() else "there is no such folder"
        raise UserError("classifier-missing", str(path), what, "run `ttl finetune RECIPE` first")
    fix = did_you_mean(task, found) if task else f"--task with one of {', '.join(sorted(found))}"
    raise UserError("classifier-which", str(path), f"holds {len(found)} classifiers", fix)


Texts = tuple[str, ...]


def _batches(
    files: Sequence[Path], names: Sequence[str]
) -> Iterator[list[tuple[Texts, dict[str, Any]]]]:
    batch: list[tuple[Texts, dict[str, Any]]] = []
    for path in files:
        for texts, fields in _records(path, names):
            batch.append((texts, fields))
            if len(batch) == RECORDS_PER_BATCH:
                yield batch
                batch = []
    if batch:
        yield batch


def _records(path: Path, names: Sequence[str]) -> Iterator[tuple[Texts, dict[str, Any]]]:
    if not path.is_file():
        raise UserError("file-missing", str(path), "there is no such file", "correct its path")
    if path.suffix.lower() == ".txt":
        if len(names) > 1:
            what = f"the classifier reads pairs ({', '.join(names)}), a .txt holds single texts"
            raise UserError("columns", str(path), what, "give a .csv or .jsonl with both columns")
        for line in _lines(path):
            yield (line,), {"text": line}
        return
    for record in read_records(path):
        if record.error:
            raise UserError("record-broken", record.place, record.error, "fix that line")
        for name in names:
            if not isinstance(record.fields.get(name), str):
                known = [str(key) for key in record.fields]
                what = f"no text in the column, there are {', '.join(known[:20])}"
                fix = f"name it with --column; {did_you_mean(name, known)}"
                raise UserError("column-missing", f"{record.place}:{name}", what, fix)
        yield tuple(record.fields[name].strip() for name in names), record.fields


def _lines(path: Path) -> Iterator[str]:
    """Lines as editors count them: only a line feed ends one, no other Unicode separator."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                what = f"not UTF-8 at byte {error.start} of the line"
                fix = "save the file as UTF-8"
                raise UserError("text-encoding", f"{path}:{number}", what, fix) from error
