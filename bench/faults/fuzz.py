"""F15: coverage-guided fuzzing of everything that is read: no crash, no hang, no memory.

    pip install atheris                              # outside `make test`; nothing else needs it
    python bench/faults/fuzz.py                      # 10 minutes of each target
    python bench/faults/fuzz.py gguf manifest --minutes 1

Each target writes what it is given to a file and calls the code that would read it in practice.
One line, a `UserError`, a quarantined record and a recovery are right; any other exception, more
than 5 s of the processor for one input and more than 1 GB of memory are not. What fails is kept in
`--keep` and is tried again by `python bench/faults/fuzz.py TARGET --again FILE`.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

MAX_S, MAX_MB = 5.0, 1024
MAX_BYTES = 1 << 16
TEXT = {"text": "Era uma vez uma raposa.", "id": 1, "license": "CC0-1.0", "source": "a"}
CHAT = {"messages": [{"role": "user", "content": "Olá"}, {"role": "assistant", "content": "Oi."}]}
LINES = b"".join(json.dumps(row).encode() + b"\n" for row in (TEXT, CHAT))


def compressed(data: bytes, folder: Path) -> None:
    """Every compression, told by the bytes."""
    from teenytinyllama.artifacts.decompression import DamagedFileError, chunks_of

    path = folder / "a.jsonl"
    path.write_bytes(data)
    with suppress(DamagedFileError):
        for chunk in chunks_of(path, Counter()):
            assert len(chunk) <= 32 << 20


def compressed_seeds() -> list[bytes]:
    import bz2
    import lzma

    import zstandard

    packs = (gzip.compress, bz2.compress, lzma.compress, zstandard.compress)
    skippable = b"P*M\x18" + (4).to_bytes(4, "little") + b"abcd"
    return [pack(LINES) * 2 for pack in packs] + [skippable + zstandard.compress(LINES), LINES]


def corpus(data: bytes, folder: Path) -> None:
    """The corpus' readers and its first two steps, on lines, texts, pages, archives and tables."""
    from teenytinyllama.settings.data_preparation import CorpusSettings
    from teenytinyllama.stages.corpus.batches import BatchDocument, DocumentBatch, StepConfig
    from teenytinyllama.stages.corpus.readers.record_parser import ExtractText, ParseRecord
    from teenytinyllama.stages.corpus.readers.sources import find_files, read_file

    suffixes = (".jsonl", ".txt", ".html", ".warc", ".wet", ".parquet")
    path = folder / f"a{suffixes[data[0] % len(suffixes)]}"
    path.write_bytes(data[1:])
    shape = "conversation" if data[0] >= 128 else "text"
    source = {"kind": "files", "path": str(path), "license": "CC0-1.0", "shape": shape}
    settings = CorpusSettings.model_validate_json(json.dumps({"sources": [source]}))
    config, notes = StepConfig(settings, "pt"), Counter[str]()
    try:
        for file in find_files(settings, notes):
            for raw in read_file(file, config, notes):
                items = [BatchDocument(item) for item in raw.items]
                batch = DocumentBatch(settings.sources[0], raw.kind, items)
                for step in (ParseRecord(config), ExtractText(config)):
                    step.apply(batch)
    finally:
        path.unlink()


def corpus_seeds() -> list[bytes]:
    import pyarrow
    import pyarrow.parquet as parquet

    table = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist([TEXT, TEXT]), table)
    head = b"WARC/1.0\r\nWARC-Type: %b\r\nWARC-Target-URI: https://a/\r\nContent-Length: %d\r\n\r\n"
    page = b"<html><body><p>Era uma vez uma raposa.</p></body></html>"
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + page
    warc = head % (b"response", len(http)) + http + b"\r\n\r\n"
    wet = head % (b"conversion", 6) + b"raposa" + b"\r\n\r\n"
    texts = (LINES, "Ação e pão.".encode("utf-16"), page, warc * 2, wet * 2, table.getvalue())
    return [bytes([number]) + text for number, text in enumerate(texts)] + [b"\x84" + LINES]


def records(data: bytes, folder: Path) -> None:
    """Chat data, labelled sets and tasks: JSON, lists, tables; and the layouts of conversations."""
    from teenytinyllama.artifacts.conversation_layouts import ConversationError, read_conversation
    from teenytinyllama.artifacts.records import read_records
    from teenytinyllama.settings.datasets import Source

    suffixes = (".json", ".jsonl", ".csv", ".tsv", ".parquet")
    path = folder / f"a{suffixes[data[0] % len(suffixes)]}"
    path.write_bytes(data[1:])
    source = Source(kind="files", path=str(path), shape="conversation")
    try:
        for record in read_records(path):
            with suppress(ConversationError):
                read_conversation(record.fields, source)
    finally:
        path.unlink()


def records_seeds() -> list[bytes]:
    table = b'text,label\nraposa,1\n"a\nb",0\n'
    listed = json.dumps([CHAT, {"instruction": "a", "output": "b", "history": [["c", "d"]]}])
    return [b"\0" + listed.encode(), b"\1" + LINES, b"\2" + table, b"\3" + b"a\tb\nc\td\n"]


def manifest(data: bytes, folder: Path) -> None:
    """The manifest of a stage, and what else a run folder holds of state."""
    from teenytinyllama.artifacts.file_hashes import FileHashes, verify_outputs
    from teenytinyllama.artifacts.manifest import MANIFEST_NAME, read_manifest
    from teenytinyllama.pipeline import spending
    from teenytinyllama.pipeline.previous_results import MARK_NAME, read_mark

    stage = folder / "corpus"
    stage.mkdir(exist_ok=True)
    for name in (spending.FILE_NAME, MARK_NAME, ".file_hashes.json", MANIFEST_NAME):
        (stage / name).write_bytes(data)
    spent = spending.total(stage, "a")
    assert spent.seconds >= 0 and min(spent.energy) >= 0
    read_mark(stage)
    FileHashes(stage)
    found = read_manifest(stage)
    assert found is not None
    found.content_fingerprint()
    verify_outputs(stage, found)


def manifest_seeds() -> list[bytes]:
    from teenytinyllama.artifacts.manifest import Manifest, Output

    whole = Manifest(
        stage="corpus",
        version="0.2.0",
        fingerprint="a",
        recipe={},
        inputs={},
        outputs={"a": Output(bytes=1, sha256="b")},
        counts={},
        metrics={},
        started_at="",
        duration_s=1.0,
        energy_kwh={},
        emissions_kg=0.0,
        versions={},
    )
    line = {"seconds": 1.0, "gpu_measured": 0, "cpu_modelled": 1e-9, "ram_modelled": 0}
    line |= {"emissions_kg": 0, "started_at": "", "fingerprint": "a"}
    mark = {"fingerprint": "a", "settings": {}}
    return [whole.model_dump_json().encode(), json.dumps(line).encode(), json.dumps(mark).encode()]


def checkpoint(data: bytes, folder: Path) -> None:
    """A checkpoint with right hashes and wrong content, in one of its three files."""
    from teenytinyllama.artifacts.manifest import MANIFEST_NAME, hash_outputs
    from teenytinyllama.training import checkpoints

    names = (checkpoints.MODEL_NAME, checkpoints.OPTIMIZER_NAME, checkpoints.STATE_NAME)
    path = folder / "step-0000001"
    path.mkdir(exist_ok=True)
    for name in names:
        (path / name).write_bytes(_tensors() if name.endswith("tensors") else b"{}")
    (path / names[data[0] % 3]).write_bytes(data[1:])
    files = {name: one.model_dump() for name, one in hash_outputs(path).items()}
    (path / MANIFEST_NAME).write_text(json.dumps({"files": files}))
    checkpoints.load_newest(folder)


def checkpoint_seeds() -> list[bytes]:
    state = json.dumps({"progress": {"step": 1, "num_tokens": 4}}).encode()
    return [b"\0" + _tensors(), b"\1" + _tensors(), b"\2" + state]


def _tensors() -> bytes:
    head = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    return len(head).to_bytes(8, "little") + head + bytes(8)


def gguf(data: bytes, folder: Path) -> None:
    """The header of a GGUF file."""
    from teenytinyllama.publishing.gguf_header import read_gguf_texts

    (folder / "a.gguf").write_bytes(data)
    for text in read_gguf_texts(folder / "a.gguf"):
        text.encode()


def gguf_seeds() -> list[bytes]:
    def text(value: bytes) -> bytes:
        return len(value).to_bytes(8, "little") + value

    head = b"GGUF" + (3).to_bytes(4, "little") + (1).to_bytes(8, "little") * 2
    listed = (9).to_bytes(4, "little") + (8).to_bytes(4, "little") + (1).to_bytes(8, "little")
    tensor = text(b"w") + (1).to_bytes(4, "little") + (8).to_bytes(8, "little") + bytes(12)
    return [head + text(b"tokens") + listed + text(b"a") + tensor]


def model(data: bytes, folder: Path) -> None:
    """A stranger's model: its configuration, its index, and the header of its weights."""
    from teenytinyllama.artifacts.model_folder import INDEX_NAME, check_model_folder

    names = ("config.json", INDEX_NAME, "model.safetensors", "tokenizer.json")
    for name in names:
        (folder / name).unlink(missing_ok=True)
    (folder / "model.safetensors").write_bytes(_tensors())
    (folder / names[data[0] % len(names)]).write_bytes(data[1:])
    check_model_folder(folder)


def model_seeds() -> list[bytes]:
    config = {"model_type": "llama", "hidden_size": 2, "num_hidden_layers": 1, "vocab_size": 1}
    index = {"weight_map": {"a": "model.safetensors"}}
    texts = (json.dumps(config).encode(), json.dumps(index).encode(), _tensors())
    return [bytes([number]) + text for number, text in enumerate(texts)]


def recipe(data: bytes, folder: Path) -> None:
    """A recipe."""
    from teenytinyllama.settings.recipe import load_recipe

    (folder / "r.toml").write_bytes(data)
    load_recipe(folder / "r.toml")


def recipe_seeds() -> list[bytes]:
    from interruptions import RECIPE

    return [RECIPE.encode()]


TARGETS = (compressed, corpus, records, manifest, checkpoint, gguf, model, recipe)


def once(target: Callable[[bytes, Path], None], data: bytes, folder: Path) -> None:
    """One input. Raises what must not happen."""
    from teenytinyllama.errors import UserError

    started = time.process_time()
    try:
        target(data, folder)
    except UserError as error:
        assert "\n" not in str(error), "an error of several lines"
    used = time.process_time() - started
    assert used < MAX_S, f"{used:.1f} s of the processor"


def fuzz_here(target: Callable[[bytes, Path], None], seeds: Path, seconds: int) -> None:
    """Fuzz in this process, which then ends."""
    import atheris

    with atheris.instrument_imports(include=["teenytinyllama"]):
        made: list[bytes] = globals()[f"{target.__name__}_seeds"]()
        for number, seed in enumerate(made):
            (seeds / f"seed-{number}").write_bytes(seed)
        folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
        for seed in made:  # imports what it needs
            once(target, seed, folder)
    logging.disable()

    def one(data: bytes) -> None:
        if data:
            once(target, data, folder)

    flags = [f"-max_total_time={seconds}", "-timeout=120", f"-rss_limit_mb={MAX_MB}"]
    flags += [f"-max_len={MAX_BYTES}", "-print_final_stats=1", f"-artifact_prefix={seeds}/FOUND-"]
    atheris.Setup([sys.argv[0], *flags, str(seeds)], one)
    atheris.Fuzz()


def fuzz(name: str, seconds: int, keep: Path) -> dict[str, Any]:
    """Fuzz one target in a process of its own; how many inputs, and what was found."""
    seeds = keep / name
    seeds.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, name, "--here", str(seeds), "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    said = done.stderr
    counted = re.search(r"number_of_executed_units:\s+(\d+)", said)
    memory = re.search(r"peak_rss_mb:\s+(\d+)", said)
    found = {"inputs": int(counted[1]) if counted else 0, "code": done.returncode}
    found["mb"] = int(memory[1]) if memory else 0
    if done.returncode or not counted:
        print(f"{name}: {said[-2000:]}", file=sys.stderr)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", default=[one.__name__ for one in TARGETS])
    parser.add_argument("--minutes", type=float, default=10, help="of each target")
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "ttl-fuzz")
    parser.add_argument("--again", type=Path, help="try one kept input")
    parser.add_argument("--here", type=Path, help="(inner) fuzz in this process")
    parser.add_argument("--seconds", type=int, default=0, help="(inner) for so long")
    options = parser.parse_args()
    named = {one.__name__: one for one in TARGETS}
    if options.again:
        with tempfile.TemporaryDirectory() as folder:
            once(named[options.targets[0]], options.again.read_bytes(), Path(folder))
        return
    if options.here:
        fuzz_here(named[options.targets[0]], options.here, options.seconds)
    try:
        import atheris  # noqa: F401
    except ImportError:
        missing = "fuzz: not run: it needs atheris, which is not installed: pip install atheris"
        print(missing, file=sys.stderr)
        return
    for name in options.targets:
        found = fuzz(name, round(60 * options.minutes), options.keep)
        failed = found["code"] != 0
        unit = f"failures in {found['inputs']:,} inputs, {options.minutes:g} minutes"
        line = {"figure": f"F15 fuzzed {name}", "value": int(failed), "unit": unit, "peer": None}
        line |= {"spread": {"peak MB": found["mb"]}, "goal": 0, "holds": not failed}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
