"""The filters under datatrove: equal bytes for any executor and any number of workers."""

import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("datatrove", reason="pip install 'teenytinyllama[machines]'")

from teenytinyllama.artifacts.documents import read_json_lines
from teenytinyllama.errors import UserError
from teenytinyllama.settings.data_preparation import FilterSettings
from teenytinyllama.stages.corpus.datatrove_executors import executor_for, shards_of
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
    return files_of(output_dir)


def files_of(output_dir: Path) -> dict[str, bytes]:
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
    ray = pytest.importorskip("ray", reason="pip install 'teenytinyllama[ray]'")
    ray.init(num_cpus=2, include_dashboard=False)
    try:
        assert run("ray", input_dir, tmp_path, workers=2) == alone[1]
    finally:
        ray.shutdown()


STAND_IN = {
    # One task of the array after another; the job's number is the last word, as Slurm says it.
    "sbatch": """#!/bin/bash
script="${@: -1}"
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$script")
for task in $(seq 0 "${last:-0}"); do
    SLURM_ARRAY_TASK_ID=$task SLURM_NODELIST=localhost bash "$script" >> "$STAND_IN_LOG" 2>&1
done
echo Submitted batch job 1
""",
    "srun": '#!/bin/bash\nshift 3\nexec "$@"\n',  # srun -l -n 1 COMMAND
    "scontrol": "#!/bin/bash\necho localhost\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("cluster", ["slurm", "stand-in"])
def test_slurm_writes_the_same_bytes(
    cluster: str,
    alone: tuple[Path, dict],
    input_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a real Slurm where there is one, and with commands that stand in for it."""
    options: dict = {"time": "00:10:00", "partition": "main", "qos": "", "mem_per_cpu_gb": 1}
    if cluster == "stand-in":
        for name, script in STAND_IN.items():
            (tmp_path / "bin").mkdir(exist_ok=True)
            (tmp_path / "bin" / name).write_text(script)
            (tmp_path / "bin" / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
        monkeypatch.setenv("STAND_IN_LOG", str(tmp_path / "log"))
    elif shutil.which("sinfo") is None or subprocess.run(["sinfo"], capture_output=True).returncode:
        pytest.skip("no Slurm answers on this machine")
    else:
        options["partition"] = subprocess.run(
            ["sinfo", "-h", "-o", "%R"], capture_output=True, text=True, check=True
        ).stdout.split()[0]
    output_dir = tmp_path / "out"
    executor_for("slurm", SETTINGS, "pt", input_dir, output_dir, workers=2, **options).run()
    marks = output_dir / "logs" / "completions"
    until = time.monotonic() + 120
    while len(list(marks.glob("*"))) < 3 and time.monotonic() < until:
        time.sleep(0.5)
    assert len(list(marks.glob("*"))) == 3
    assert files_of(output_dir) == alone[1]


def test_a_folder_without_shards_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="shards-missing"):
        shards_of(tmp_path)


def test_without_datatrove_the_extra_is_named(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['datatrove'] = None\n"
        "from teenytinyllama.stages.corpus.datatrove_executors import executor_for\n"
        "executor_for('local', None, 'pt', None, None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'teenytinyllama[machines]'" in done.stderr
