"""Malicious artifacts (figure F19): each is given to the code that would read it in practice.

A trial returns how it ended, and raises where the artifact got through. Foreign code that runs
leaves the file `CANARY`; `run_trial` watches the network.
"""

from __future__ import annotations

import gzip
import io
import json
import logging
import os
import pickle
import struct
import sys
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from support.finished_run import build, finish, gguf, model_files, safetensors, write_report
from support.parquet import say_small
from teenytinyllama.artifacts.decompression import DamagedFileError
from teenytinyllama.artifacts.manifest import read_manifest, write_manifest
from teenytinyllama.artifacts.parquet import parquet_rows
from teenytinyllama.errors import UserError
from teenytinyllama.pipeline.run_folder import RunFolder
from teenytinyllama.publishing import publisher
from teenytinyllama.settings.data_preparation import CorpusSettings
from teenytinyllama.settings.recipe import load_recipe
from teenytinyllama.stages.corpus.batches import BatchDocument, DocumentBatch, StepConfig
from teenytinyllama.stages.corpus.readers.record_parser import ExtractText, ParseRecord
from teenytinyllama.stages.corpus.readers.sources import find_files, read_file
from teenytinyllama.stages.corpus.readers.text_lines import TextFile, lines_of
from teenytinyllama.stages.report.renderers import csv_of
from teenytinyllama.stages.report.report_page import html_of

logger = logging.getLogger(__name__)

EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>"
BOMB_BYTES = 64 << 20
CANARY = "canary.txt"


class _Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def rejected(call: Callable[[], object], *parts: str) -> str:
    """The one-line error that a call raises."""
    try:
        call()
    except UserError as error:
        line = str(error)
        assert "\n" not in line
        for part in parts:
            assert part in line, line
        return f"rejected: {line}"
    raise AssertionError("it was not rejected")


def _publish(run_dir: Path) -> Any:
    return publisher.prepare(publisher.PublishRequest(run_dir, "ana/pequeno"))


def _run_with(folder: Path, stage: str, name: str, data: bytes) -> Path:
    """A finished run with one more file, listed in its stage's manifest."""
    run_dir = build(folder / "run")
    places = {"pretrain": "pretrain/final", "quantize": "quantize"}
    (run_dir / places[stage] / name).write_bytes(data)
    manifest = read_manifest(run_dir / places[stage].partition("/")[0])
    assert manifest is not None
    finish(run_dir, stage, counts=manifest.counts, recipe=manifest.recipe, metrics=manifest.metrics)
    write_report(run_dir)
    return run_dir


def _model(folder: Path, **files: str | bytes) -> Path:
    model_files(folder / "model")
    for name, data in files.items():
        path = folder / "model" / name.replace("__", ".")
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return folder / "model"


def _load(model: Path) -> object:
    from teenytinyllama.inference.chat_model import load_chat_model

    return load_chat_model(model)


def pickled_weights_for_chat(folder: Path) -> str:
    model = _model(folder, pytorch_model__bin=pickle.dumps(_Bomb(folder / CANARY)))
    (model / "model.safetensors").unlink()
    return rejected(lambda: _load(model), "model-unsafe", "is pickled")


def pickled_weights_for_evaluation(folder: Path) -> str:
    from teenytinyllama.stages.evaluate.scored_models import load_model

    bomb = pickle.dumps({"w": _Bomb(folder / CANARY)})
    model = _model(folder, pytorch_model__bin=bomb)
    (model / "model.safetensors").unlink()
    return rejected(lambda: load_model("x", model, precision="fp32"), "model-")


def pickle_named_as_safetensors(folder: Path) -> str:
    model = _model(folder, model__safetensors=pickle.dumps(_Bomb(folder / CANARY)))
    return rejected(lambda: _load(model), "model-damaged")


def pickle_among_published_files(folder: Path) -> str:
    data = pickle.dumps(_Bomb(folder / CANARY))
    run_dir = _run_with(folder, "pretrain", "training_args.bin", data)
    return rejected(lambda: _publish(run_dir), "publish-unsafe", "is pickled")


def zip_with_path_traversal(folder: Path) -> str:
    path = folder / "texts.jsonl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"../../{CANARY}", "out")
    return rejected(lambda: list(_lines(path)), "is a zip archive")


def tar_with_path_traversal(folder: Path) -> str:
    path = folder / "texts.jsonl"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        entry = tarfile.TarInfo(f"../../{CANARY}")
        entry.size = 3
        archive.addfile(entry, io.BytesIO(b"out"))
    return rejected(lambda: list(_lines(path)), "is a tar archive")


def gzip_bomb(folder: Path) -> str:
    with gzip.open(folder / "texts.jsonl.gz", "wb") as file:
        for _ in range(BOMB_BYTES >> 20):
            file.write(b"\n" * (1 << 20))
    return _bomb_is_stopped(folder / "texts.jsonl.gz")


def zstd_bomb(folder: Path) -> str:
    data = zstandard.ZstdCompressor(level=19).compress(b"\n" * BOMB_BYTES)
    (folder / "texts.jsonl.zst").write_bytes(data)
    return _bomb_is_stopped(folder / "texts.jsonl.zst")


def table_that_says_it_is_small(folder: Path) -> str:
    path = folder / "texts.parquet"
    texts = pa.table({"text": ["0" * (BOMB_BYTES >> 2)] * 4})
    pq.write_table(texts, path, compression="zstd", use_dictionary=False)
    say_small(path)
    return _table_is_refused(path, "decompression-bomb: column text: 67")


def table_nested_too_deeply(folder: Path) -> str:
    footer = b"\x19" * 5000  # a list in a list
    path = folder / "texts.parquet"
    path.write_bytes(b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    return _table_is_refused(path, "nested too deep")


def _table_is_refused(path: Path, expected: str) -> str:
    try:
        list(parquet_rows(path))
    except DamagedFileError as error:
        assert expected in str(error), error
        return f"refused: {error}"
    raise AssertionError("it was read")


def _lines(path: Path) -> Any:
    return lines_of(TextFile(path, "", "pt"), max_line_bytes=1 << 20, notes=Counter())


def _bomb_is_stopped(path: Path) -> str:
    last = list(_lines(path))[-1]
    assert last.damage == "decompression-bomb", last
    return f"stopped: {last.detail}"


def link_in_a_run_folder(folder: Path) -> str:
    run_dir = build(folder / "run")
    (folder / "passwords.json").write_text("{}")
    (run_dir / "pretrain/final/config.json").unlink()
    (run_dir / "pretrain/final/config.json").symlink_to(folder / "passwords.json")
    return rejected(lambda: _publish(run_dir), "is a link")


def tokenizer_with_code(folder: Path) -> str:
    value = '{"auto_map": {"AutoTokenizer": ["evil.T", null]}}'
    model = _model(folder, tokenizer_config__json=value, evil__py=_code(folder))
    return rejected(lambda: _load(model), "model-unsafe", "auto_map")


def config_with_code(folder: Path) -> str:
    from teenytinyllama.stages.evaluate.scored_models import load_model

    value = '{"model_type": "evil", "auto_map": {"AutoConfig": "evil.C"}}'
    model = _model(folder, config__json=value, evil__py=_code(folder))
    return rejected(lambda: load_model("x", model, precision="fp32"), "model-")


def _code(folder: Path) -> str:
    return f"open({str(folder / CANARY)!r}, 'w').close()\n"


def published_config_that_asks_for_code(folder: Path) -> str:
    value = b'{"a": {"trust_remote_code": true}}'
    run_dir = _run_with(folder, "pretrain", "preprocessor_config.json", value)
    return rejected(lambda: _publish(run_dir), "publish-unsafe", "trust_remote_code")


def safetensors_with_a_huge_header(folder: Path) -> str:
    model = _model(folder, model__safetensors=struct.pack("<Q", 1 << 62) + b"{}")
    return rejected(lambda: _load(model), "model-damaged", "header")


def safetensors_with_a_tensor_out_of_bounds(folder: Path) -> str:
    good = safetensors()
    bad = good.replace(b'"data_offsets": [0, 16]', b'"data_offsets": [0, 99]')
    return rejected(lambda: _load(_model(folder, model__safetensors=bad)), "model-damaged")


def index_with_path_traversal(folder: Path) -> str:
    index = json.dumps({"weight_map": {"w": "../../passwords.safetensors"}})
    model = _model(folder, **{"model__safetensors__index__json": index})
    return rejected(lambda: _load(model), "model-unsafe", "not a file of its folder")


def gguf_with_huge_counts(folder: Path) -> str:
    run_dir = _run_with(folder, "quantize", "model-q4_0.gguf", gguf(keys=1 << 50))
    return rejected(lambda: _publish(run_dir), "publish-unsafe", "keys")


def gguf_with_a_huge_string(folder: Path) -> str:
    bad = gguf()[:-9] + struct.pack("<Q", 1 << 60) + b"x"
    run_dir = _run_with(folder, "quantize", "model-q4_0.gguf", bad)
    return rejected(lambda: _publish(run_dir), "publish-unsafe", "a string of")


def script_in_names_and_texts(folder: Path) -> str:
    run_dir = build(folder / "run")
    tasks = {f"t {EVIL}": {"accuracy": 0.5, "num_items": 10, "chance": 0.25}}
    finish(run_dir, "evaluate", metrics={"heldout_bits_per_byte": 1.0, "tasks": tasks})
    answer = {"prompt": EVIL, "answer": f"=cmd() {EVIL}"}
    (run_dir / "align/examples.jsonl").write_text(json.dumps(answer) + "\n")
    write_report(run_dir)
    page, card = html_of([run_dir]), (run_dir / "report/model_card.md").read_text()
    assert "<script>alert" not in page + card
    assert "<img" not in page + card
    assert "&lt;script&gt;alert" in page
    return "shown as text"


def card_that_injects_metadata(folder: Path) -> str:
    run_dir = build(folder / "run")
    name = "t\n---\nlicense: mit\n---\n| x"
    tasks = {name: {"accuracy": 0.5, "num_items": 10, "chance": 0.25}}
    finish(run_dir, "evaluate", metrics={"tasks": tasks})
    write_report(run_dir)
    lines = (run_dir / "report/model_card.md").read_text().splitlines()
    assert lines.count("---") == 2
    assert sum(line.startswith("license:") for line in lines) == 1
    return "kept on one line"


def formula_in_a_table(folder: Path) -> str:
    from teenytinyllama.stages.report.page_blocks import Cell, Column, Table

    evil = "=cmd|'/c calc'!A1"
    found = csv_of(Table("k", "t", (Column("task"),), ((Cell(evil),),)))
    assert f"'{evil}" in found
    return "quoted for spreadsheets"


def task_file_with_code(folder: Path) -> str:
    return _task(folder, "doc_to_text: !function evil.run\n")


def task_file_that_includes_code(folder: Path) -> str:
    (folder / "more.yaml").write_text("doc_to_text: !function evil.run\n")
    return _task(folder, "include: more.yaml\n")


def task_file_with_a_template_escape(folder: Path) -> str:
    return _task(folder, 'doc_to_text: "{{ cycler.__init__.__globals__.os.system(1) }}"\n')


def _task(folder: Path, text: str) -> str:
    from teenytinyllama.settings.datasets import Task
    from teenytinyllama.stages.evaluate.task_loading import load_benchmark

    (folder / "evil.py").write_text(_code(folder) + "run = str\n")
    (folder / "t.yaml").write_text(text)
    task = Task(name="t", kind="files", path=str(folder), definition=str(folder / "t.yaml"))
    return rejected(lambda: load_benchmark(task), "task-code")


def recipe_name_with_path_traversal(folder: Path) -> str:
    path = folder / "r.toml"
    path.write_text('name = "../../etc"\nlanguage = "pt"\n')
    return rejected(lambda: load_recipe(path), "recipe-value")


def recipe_nested_too_deeply(folder: Path) -> str:
    path = folder / "r.toml"
    path.write_text("name = " + "[" * 20_000 + "]" * 20_000)
    return rejected(lambda: load_recipe(path), "recipe-syntax")


def template_that_breaks_its_sandbox(folder: Path) -> str:
    touch = f"os.system('touch {folder / CANARY}')"
    escape = f"{{{{ cycler.__init__.__globals__.{touch} }}}}"
    value = json.dumps({"chat_template": escape}).encode()
    run_dir = _run_with(folder, "pretrain", "tokenizer_config.json", value)
    return rejected(lambda: _publish(run_dir), "publish-unsafe", "template")


def manifest_with_path_traversal(folder: Path) -> str:
    run_dir = build(folder / "run")
    (folder / "secret.json").write_text("{}")
    manifest = read_manifest(run_dir / "pretrain")
    assert manifest is not None
    value = manifest.outputs["final/config.json"]
    outputs = {**manifest.outputs, "final/../../../secret.json": value}
    write_manifest(run_dir / "pretrain", manifest.model_copy(update={"outputs": outputs}))
    write_report(run_dir)
    return rejected(lambda: _publish(run_dir), "file-changed", "outside")


def run_name_with_path_traversal(folder: Path) -> str:
    run_dir = build(folder / "run")
    (run_dir / "run.json").write_text(json.dumps({"name": "../../x", "recipe": {}}))
    return rejected(lambda: _publish(run_dir), "run-damaged")


def sample_with_terminal_escapes(folder: Path) -> str:
    output = io.StringIO()
    with redirect_stderr(output):
        logger.info("sample: \x1b]0;owned\x07\x1b[2J\u202eabc\r")
    assert not set(output.getvalue()) & set("\x1b\x07\u202e\r")
    return "escaped"


def config_with_code_of_the_hub(folder: Path) -> str:
    value = '{"model_type": "llama", "attn_implementation": "someone/attention"}'
    return rejected(lambda: _load(_model(folder, config__json=value)), "model-unsafe", "of the Hub")


def config_with_a_thousand_million_labels(folder: Path) -> str:
    value = '{"model_type": "llama", "num_labels": 1000000000}'
    return rejected(lambda: _load(_model(folder, config__json=value)), "num_labels")


def config_that_divides_by_zero(folder: Path) -> str:
    value = '{"model_type": "llama", "num_attention_heads": 0}'
    return rejected(lambda: _load(_model(folder, config__json=value)), "num_attention_heads = 0")


def recipe_with_a_key_of_a_million_parts(folder: Path) -> str:
    path = folder / "r.toml"
    path.write_text("a." * 1_000_000 + "b = 1")
    return rejected(lambda: load_recipe(path), "recipe-syntax")


def page_that_takes_hours(folder: Path) -> str:
    import time

    (folder / "a.html").write_text("<html><body>" + "<p>a</p>" * 200_000)
    (folder / "b.txt").write_text("Era uma vez uma raposa.\n")
    started = time.process_time()
    settings = CorpusSettings.model_validate_json(
        json.dumps({"sources": [{"kind": "files", "path": str(folder), "license": "CC0-1.0"}]})
    )
    config, notes = StepConfig(settings, "pt"), Counter[str]()
    reasons = []
    for file in find_files(settings, notes):
        for raw in read_file(file, config, notes):
            items = [BatchDocument(item) for item in raw.items]
            batch = DocumentBatch(settings.sources[0], raw.kind, items)
            ParseRecord(config).apply(batch)
            ExtractText(config).apply(batch)
            reasons += [one.reason for one in batch.documents]
    assert "page-too-many-tags" in reasons and time.process_time() - started < 10
    return "quarantined"


def lock_that_is_a_link(folder: Path) -> str:
    (folder / "precious.txt").write_text("1")
    (folder / "run").mkdir()
    (folder / "run/.lock").symlink_to(folder / "precious.txt")
    with RunFolder(folder / "run").owned():
        pass
    assert (folder / "precious.txt").read_text() == "1"
    return "left alone"


def earlier_results_that_are_a_link(folder: Path) -> str:
    (folder / "precious/corpus/1").mkdir(parents=True)
    run = RunFolder(folder / "run")
    run.path.mkdir()
    run.previous.folder.symlink_to(folder / "precious")
    assert not run.removable()
    run.previous.prune("corpus", 0)
    assert (folder / "precious/corpus/1").is_dir()
    return "left alone"


TRIALS: tuple[Callable[[Path], str], ...] = (
    pickled_weights_for_chat,
    pickled_weights_for_evaluation,
    pickle_named_as_safetensors,
    pickle_among_published_files,
    zip_with_path_traversal,
    tar_with_path_traversal,
    gzip_bomb,
    zstd_bomb,
    table_that_says_it_is_small,
    table_nested_too_deeply,
    link_in_a_run_folder,
    tokenizer_with_code,
    config_with_code,
    published_config_that_asks_for_code,
    safetensors_with_a_huge_header,
    safetensors_with_a_tensor_out_of_bounds,
    index_with_path_traversal,
    gguf_with_huge_counts,
    gguf_with_a_huge_string,
    script_in_names_and_texts,
    card_that_injects_metadata,
    formula_in_a_table,
    task_file_with_code,
    task_file_that_includes_code,
    task_file_with_a_template_escape,
    recipe_name_with_path_traversal,
    recipe_nested_too_deeply,
    template_that_breaks_its_sandbox,
    manifest_with_path_traversal,
    run_name_with_path_traversal,
    sample_with_terminal_escapes,
    config_with_code_of_the_hub,
    config_with_a_thousand_million_labels,
    config_that_divides_by_zero,
    recipe_with_a_key_of_a_million_parts,
    page_that_takes_hours,
    lock_that_is_a_link,
    earlier_results_that_are_a_link,
)


def run_trial(trial: Callable[[Path], str], folder: Path) -> str:
    """Run one trial and watch for network connections; returns how it ended."""
    connections: list[str] = []

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.connect" and watching:
            connections.append(str(arguments[1]))

    watching = True
    sys.addaudithook(watch)
    try:
        ended = trial(folder)
    finally:
        watching = False
    assert not connections, f"it connected to the network: {connections}"
    assert not list(folder.parent.rglob(CANARY)), "its code ran"
    return ended
