"""`ttl classify`: label the texts of new files with a finished classifier."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging as transformers_logging

from teenytinyllama.errors import UserError, did_you_mean
from teenytinyllama.formats.encoding import load_tokenizer, tokenizer_file
from teenytinyllama.formats.records import read_records
from teenytinyllama.progress import say
from teenytinyllama.stages.finetune.encoding import encode_with
from teenytinyllama.stages.finetune.labelled import Example
from teenytinyllama.stages.finetune.training import predict

CLASSIFIER_NAME = "classifier.json"
RECORDS_PER_BATCH = 1000


def run(*, model: Path, files: Sequence[Path], task: str = "", columns: Sequence[str] = ()) -> None:
    """Write every record of the files with `predicted` and `probability`, as JSON lines.

    `model` is a run with a finetune room, a task's folder or a classifier's folder. A `.txt` is
    read line by line; tables and JSON lines by the columns that the classifier was trained on,
    unless `columns` names others. A record at fault stops the work with its place.
    """
    folder = find_classifier(model, task)
    about = json.loads((folder / CLASSIFIER_NAME).read_text(encoding="utf-8"))
    names = list(columns) or list(about["text_columns"])
    if len(names) != len(about["text_columns"]):
        what = f"{len(names)} columns named, the classifier reads {len(about['text_columns'])}"
        raise UserError("columns", "--column", what, "name as many")
    encoder = load_tokenizer(folder)
    encode = encode_with(encoder, int(about["max_length"]))
    transformers_logging.disable_progress_bar()
    classifier: Any = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True
    ).eval()
    labels = classifier.config.id2label
    counts = {"texts": 0, "cut": 0}
    for records in _batches(files, names):
        rows = [encode(Example(texts, -1)) for texts, _ in records]
        for (_, fields), logits in zip(
            records, predict(classifier, rows, encoder.pad_id), strict=True
        ):
            best = int(np.argmax(logits))
            shares = np.exp(logits - logits.max())
            probability = round(float(shares[best] / shares.sum()), 6)
            line = {**fields, "predicted": labels[best], "probability": probability}
            sys.stdout.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
        counts["texts"] += len(rows)
        counts["cut"] += sum(row.was_cut for row in rows)
    say(f"{counts['texts']} texts labelled, {counts['cut']} cut at {about['max_length']} tokens")


def find_classifier(path: Path, task: str) -> Path:
    """The folder of a classifier behind a run, a room, a task's folder or the folder itself."""
    for folder in (path, path / "final"):
        if (folder / CLASSIFIER_NAME).is_file() and tokenizer_file(folder).is_file():
            return folder
    room = path / "finetune" if (path / "finetune").is_dir() else path
    found = {p.parent.parent.name: p.parent for p in room.glob(f"*/final/{CLASSIFIER_NAME}")}
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
    if path.suffix == ".txt":
        if len(names) > 1:
            what = f"the classifier reads pairs ({', '.join(names)}), a .txt holds single texts"
            raise UserError("columns", str(path), what, "give a .csv or .jsonl with both columns")
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip():
                yield (line.strip(),), {"text": line.strip()}
        return
    for record in read_records(path):
        if record.fault:
            raise UserError("record-broken", record.place, record.fault, "mend that line")
        for name in names:
            if not isinstance(record.fields.get(name), str):
                known = [str(key) for key in record.fields]
                what = f"no text in the column, there are {', '.join(known[:20])}"
                fix = f"name it with --column; {did_you_mean(name, known)}"
                raise UserError("column-missing", f"{record.place}:{name}", what, fix)
        yield tuple(record.fields[name].strip() for name in names), record.fields
