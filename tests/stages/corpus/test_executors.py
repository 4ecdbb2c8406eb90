"""The filters under datatrove: equal bytes for any executor and any number of workers."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("datatrove")

from teenytinyllama.errors import UserError
from teenytinyllama.formats.documents import read_json_lines
from teenytinyllama.recipe import FilterSettings
from teenytinyllama.stages.corpus.executors import executor_for, shards_of
from teenytinyllama.stages.corpus.filters import Chain

SETTINGS = FilterSettings(
    families=("address", "repetition", "fineweb", "quality"),
    thresholds={"gopher_short_doc": 8},
    blocked_domains=("ruim.br",),
    c4="lines",
)
STORY = (
    "O gato {0} dormiu na casa da vizinha. De manhã ele foi para a rua com fome. "
    "A menina {0} deu leite para o gato. Depois os dois foram ver o rio. Era um dia de sol. "
    "Ninguém sabia de onde vinha o barco."
)
NAMES = ["Teo", "Lia", "Rui", "Ana", "Ivo", "Bia", "Noé", "Eva"]


def rows() -> list[dict]:
    made = []
    for number, name in enumerate(NAMES * 30):
        text = STORY.format(name) + "\nAceite o uso de cookies para ver." * (number % 3 == 0)
        text = ("bom dia " * 30) if number % 7 == 0 else text
        url = "https://a.ruim.br/" if number % 11 == 0 else ""
        made.append(
            {"id": f"d{number}", "text": text, "source": "s", "license": "CC0-1.0", "url": url}
        )
    return made


@pytest.fixture(scope="module")
def input_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards; the second, packed, has three lines that are no document."""
    folder = tmp_path_factory.mktemp("shards")
    lines = [json.dumps(row, ensure_ascii=False).encode() for row in rows()]
    bad = [b'{"id": "x", "te', b'["text"]', b'{"id": "y", "text": "\xff\xfe"}']
    (folder / "a.jsonl").write_bytes(b"\n".join(lines[:100]) + b"\n")
    with gzip.open(folder / "b.jsonl.gz", "wb") as stream:
        stream.write(b"\n".join([*lines[100:150], *bad, *lines[150:200]]) + b"\n")
    (folder / "c.jsonl").write_bytes(b"\n".join(lines[200:]))
    return folder


def run(kind: str, input_dir: Path, output_dir: Path, workers: int) -> dict[str, bytes]:
    """Every file that the run wrote, marks and logs left out."""
    executor_for(kind, SETTINGS, "pt", input_dir, output_dir, workers=workers).run()
    return {
        str(path.relative_to(output_dir)): path.read_bytes()
        for path in sorted(output_dir.rglob("*"))
        if path.is_file() and path.relative_to(output_dir).parts[0] != "logs"
    }


@pytest.fixture(scope="module")
def alone(input_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """What one process makes of the shards."""
    output_dir = tmp_path_factory.mktemp("alone")
    return output_dir, run("local", input_dir, output_dir, workers=1)


def test_every_document_stands_where_the_chain_says(alone: tuple[Path, dict]) -> None:
    output_dir, _ = alone
    given = rows()
    verdicts = Chain(SETTINGS, "pt").judge(
        [r["text"] for r in given], urls=[r["url"] for r in given]
    )
    expected: dict[str, list] = {}
    for row, verdict in zip(given, verdicts, strict=True):
        place = f"dropped/{verdict.reason}" if verdict.reason else "kept"
        text = row["text"] if verdict.text is None else verdict.text
        expected.setdefault(place, []).append((row["id"], text, verdict.scores))
    found: dict[str, list] = {}
    for path in sorted(output_dir.rglob("*.jsonl.zst")):
        place = str(path.parent.relative_to(output_dir))
        found.setdefault(place, []).extend(
            (row["id"], row["text"], row["scores"]) for row in read_json_lines(path)
        )
    assert found == expected
    assert set(found) == {"kept", "dropped/url_domain", "dropped/too_few_sentences"}


def test_lines_that_are_no_document_are_quarantined_and_the_rest_is_read(
    alone: tuple[Path, dict],
) -> None:
    output_dir, files = alone
    faults = (output_dir / "quarantine" / "part-00001.jsonl").read_text().splitlines()
    assert [json.loads(line)["line"] for line in faults] == [51, 52, 53]
    assert files["quarantine/part-00000.jsonl"] == b""


def test_two_workers_write_the_same_bytes(
    alone: tuple[Path, dict], input_dir: Path, tmp_path: Path
) -> None:
    assert run("local", input_dir, tmp_path, workers=2) == alone[1]


@pytest.mark.slow
def test_ray_writes_the_same_bytes(
    alone: tuple[Path, dict], input_dir: Path, tmp_path: Path
) -> None:
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False)
    try:
        assert run("ray", input_dir, tmp_path, workers=2) == alone[1]
    finally:
        ray.shutdown()


def test_a_folder_without_shards_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="shards-missing"):
        shards_of(tmp_path)


def test_without_datatrove_the_extra_is_named(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['datatrove'] = None\n"
        "from teenytinyllama.stages.corpus.executors import executor_for\n"
        "executor_for('local', None, 'pt', None, None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'teenytinyllama[machines]'" in done.stderr
