"""The document steps under datatrove: equal bytes for any executor and workers."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from teenytinyllama.artifacts.documents import document_row, read_json_lines
from teenytinyllama.errors import UserError
from teenytinyllama.settings.data_preparation import CorpusSettings, FilterSettings
from teenytinyllama.settings.datasets import Source, Task
from teenytinyllama.stages.corpus.batches import StepConfig
from teenytinyllama.stages.corpus.datatrove_executors import document_steps, executor_for
from teenytinyllama.stages.corpus.filters.boilerplate import learn_boilerplate
from teenytinyllama.stages.corpus.readers.sources import find_files, read_file
from teenytinyllama.stages.corpus.steps import DocumentProcessor
from teenytinyllama.synthetic import dataset as synthetic

FILTERS = FilterSettings(
    families=("address", "repetition", "fineweb", "quality"),
    thresholds={"gopher_short_doc": 8},
    blocked_domains=("ruim.br",),
    c4="lines",
    max_boilerplate_fraction=0.25,
)


def settings_of(input_dir: Path) -> CorpusSettings:
    task = Task(name="prova", path=str(input_dir.parent / "prova"))
    source = Source(kind="files", path=str(input_dir), license="CC0-1.0")
    return CorpusSettings(sources=(source,), filters=FILTERS, decontaminate=(task,))


STORY = (
    "O gato {0} dormiu na casa da vizinha. De manhã ele foi para a rua com fome. "
    "A menina {0} deu leite para o gato. Depois os dois foram ver o rio. Era um dia de sol. "
    "Ninguém sabia de onde vinha o barco."
)


QUESTION = "Quem foi que escreveu o romance em que um defunto conta a própria vida do fim?"
NAMES = ["Teo", "Lia", "Rui", "Ana", "Ivo", "Bia", "Noé", "Eva"]


def rows() -> list[dict]:
    made = []
    for number, name in enumerate(NAMES * 30):
        text = STORY.format(name) + "\nAceite o uso de cookies para ver." * (number % 3 == 0)
        text = ("bom dia " * 30) if number % 7 == 0 else text
        text = f"\x00{text}\n{QUESTION}\nEscreva a ana@x.com.br." if number % 5 == 0 else text
        text = "Oi." if number % 13 == 0 else text
        url = "https://a.ruim.br/" if number % 11 == 0 else ""
        made.append(
            {"id": f"d{number}", "text": text, "source": "s", "license": "CC0-1.0", "url": url}
        )
    return made


@pytest.fixture(scope="module")
def input_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three files; the second, compressed, has three lines that are no document."""
    folder = tmp_path_factory.mktemp("input") / "files"
    folder.mkdir()
    (folder.parent / "prova").mkdir()
    (folder.parent / "prova" / "test.jsonl").write_text(json.dumps({"question": QUESTION}), "utf-8")
    lines = [json.dumps(row, ensure_ascii=False).encode() for row in rows()]
    bad = [b'{"id": "x", "te', b'["text"]', b'{"id": "y", "text": "\xff\xfe"}']
    (folder / "a.jsonl").write_bytes(b"\n".join(lines[:100]) + b"\n")
    with gzip.open(folder / "b.jsonl.gz", "wb") as stream:
        stream.write(b"\n".join([*lines[100:150], *bad, *lines[150:200]]) + b"\n")
    (folder / "c.jsonl").write_bytes(b"\n".join(lines[200:]))
    return folder


def run(kind: str, input_dir: Path, output_dir: Path, workers: int) -> dict[str, bytes]:
    """Every file that the run wrote, except datatrove's marks and logs."""
    executor_for(kind, settings_of(input_dir), "pt", output_dir, workers=workers).run()
    return files_of(output_dir)


def files_of(output_dir: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(output_dir)): path.read_bytes()
        for path in sorted(output_dir.rglob("*"))
        if path.is_file() and path.relative_to(output_dir).parts[0] != "logs"
    }


@pytest.fixture(scope="module")
def alone(input_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """What one process writes."""
    pytest.importorskip("datatrove", reason="pip install 'teenytinyllama[machines]'")
    output_dir = tmp_path_factory.mktemp("alone")
    return output_dir, run("local", input_dir, output_dir, workers=1)


def test_every_document_is_where_the_steps_put_it(
    alone: tuple[Path, dict], input_dir: Path
) -> None:
    """One process of the stage, file by file, without datatrove."""
    settings = settings_of(input_dir)
    files = find_files(settings, Counter())
    config = StepConfig(settings, "pt", learn_boilerplate(settings, "pt", files))
    expected: dict[str, list] = {}
    for file in files:
        for raw in read_file(file, config, Counter()):
            for one in DocumentProcessor(config).apply(raw).documents:
                if not one.is_quarantined:
                    place = f"dropped/{one.reason}" if one.reason else "kept"
                    expected.setdefault(place, []).append(document_row(one.document))
    output_dir, _ = alone
    found: dict[str, list] = {}
    for path in sorted(output_dir.rglob("*.jsonl.zst")):
        place = str(path.parent.relative_to(output_dir))
        found.setdefault(place, []).extend(read_json_lines(path))
    assert found == expected
    reasons = ("too-short", "url_domain", "too_few_sentences")
    assert set(found) == {"kept", *(f"dropped/{reason}" for reason in reasons)}


def test_kept_documents_are_cleaned_decontaminated_and_without_personal_data(
    alone: tuple[Path, dict],
) -> None:
    kept = [row["text"] for path in (alone[0] / "kept").iterdir() for row in read_json_lines(path)]
    assert any("Escreva a [E-MAIL]." in text for text in kept)
    assert not any("\x00" in text or QUESTION in text or "cookies" in text for text in kept)


def test_statistics_name_each_step(alone: tuple[Path, dict]) -> None:
    stats = json.loads((alone[0] / "logs" / "stats.json").read_text())
    (found,) = [one["stats"] for one in stats if "document steps" in one["name"]]
    assert {"MinLength", "UrlFilter", "C4Filter", "ParseRecord"} <= found.keys()


def test_bad_lines_are_quarantined_and_the_rest_read(
    alone: tuple[Path, dict],
) -> None:
    output_dir, files = alone
    faults = (output_dir / "quarantine" / "part-00001.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in faults]
    assert [(row["line"], row["reason"]) for row in rows] == [
        (51, "invalid-json"),
        (52, "not-an-object"),
        (53, "invalid-utf8"),
    ]
    assert files["quarantine/part-00000.jsonl"] == b""


def test_two_workers_write_the_same_bytes(
    alone: tuple[Path, dict], input_dir: Path, tmp_path: Path
) -> None:
    assert run("local", input_dir, tmp_path, workers=2) == alone[1]


def test_a_helper_language_has_its_own_rules_here_too(tmp_path: Path) -> None:
    pytest.importorskip("datatrove", reason="pip install 'teenytinyllama[machines]'")
    sources = []
    for code in ("gl", "pt"):
        made = synthetic.documents(num_documents=20, language=code)
        path = tmp_path / f"{code}.jsonl"
        path.write_text("".join(json.dumps({"text": one.text}) + "\n" for one in made))
        sources.append(Source(kind="files", path=str(path), license="CC0-1.0", language=code))
    settings = CorpusSettings(sources=tuple(sources))
    written = []
    for workers in (1, 2):
        output_dir = tmp_path / f"out-{workers}"
        executor_for("local", settings, "gl", output_dir, workers=workers).run()
        written.append(files_of(output_dir))
    assert written[0] == written[1]
    for part in range(2):
        kept = list(
            read_json_lines(tmp_path / "out-1" / "kept" / f"part-{part:05d}-00000.jsonl.zst")
        )
        assert len(kept) >= 18


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


FAKE_SLURM = {
    # Runs one task of the array after another; prints the job's number last, as Slurm does.
    "sbatch": """#!/bin/bash
script="${@: -1}"
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$script")
for task in $(seq 0 "${last:-0}"); do
    SLURM_ARRAY_TASK_ID=$task SLURM_NODELIST=localhost bash "$script" >> "$FAKE_SLURM_LOG" 2>&1
done
echo Submitted batch job 1
""",
    "srun": '#!/bin/bash\nshift 3\nexec "$@"\n',  # srun -l -n 1 COMMAND
    "scontrol": "#!/bin/bash\necho localhost\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("cluster", ["slurm", "fake"])
def test_slurm_writes_the_same_bytes(
    cluster: str,
    alone: tuple[Path, dict],
    input_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a real Slurm where there is one, and with fake commands."""
    options: dict = {"time": "00:10:00", "partition": "main", "qos": "", "mem_per_cpu_gb": 1}
    if cluster == "fake":
        for name, script in FAKE_SLURM.items():
            (tmp_path / "bin").mkdir(exist_ok=True)
            (tmp_path / "bin" / name).write_text(script)
            (tmp_path / "bin" / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
        monkeypatch.setenv("FAKE_SLURM_LOG", str(tmp_path / "log"))
    elif shutil.which("sinfo") is None or subprocess.run(["sinfo"], capture_output=True).returncode:
        pytest.skip("no Slurm answers on this machine")
    else:
        options["partition"] = subprocess.run(
            ["sinfo", "-h", "-o", "%R"], capture_output=True, text=True, check=True
        ).stdout.split()[0]
    output_dir = tmp_path / "out"
    settings = settings_of(input_dir)
    executor_for("slurm", settings, "pt", output_dir, workers=2, **options).run()
    marks = output_dir / "logs" / "completions"
    until = time.monotonic() + 120
    while len(list(marks.glob("*"))) < 3 and time.monotonic() < until:
        time.sleep(0.5)
    assert len(list(marks.glob("*"))) == 3
    assert files_of(output_dir) == alone[1]


def test_sources_that_are_no_files_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file behind"):
        document_steps(settings_of(tmp_path), "pt", tmp_path)
    storybook = CorpusSettings(sources=(Source(kind="storybook"),))
    with pytest.raises(UserError, match="source-without-files"):
        document_steps(storybook, "pt", tmp_path)


def test_without_datatrove_the_extra_is_named(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['datatrove'] = None\n"
        "from teenytinyllama.stages.corpus.datatrove_executors import executor_for\n"
        "executor_for('local', None, 'pt', None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'teenytinyllama[machines]'" in done.stderr
