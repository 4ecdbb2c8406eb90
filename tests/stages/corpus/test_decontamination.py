"""Text of evaluation tasks is cut or dropped, and counted by task."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from support import script_texts
from support.corpus_stage import GOOD, Left, Stage, json_lines

from teenytinyllama.errors import UserError

QUESTION = "Quem foi que escreveu o romance em que um defunto conta a própria vida desde o fim?"


RUN = " ".join(QUESTION.split()[:13])


SHORT = " ".join(QUESTION.split()[:12])


@pytest.fixture
def task(tmp_path: Path) -> dict[str, str]:
    folder = tmp_path / "tasks" / "livros"
    folder.mkdir(parents=True)
    item = {"question": QUESTION, "choices": {"text": ["Machado", "Alencar"]}, "answer": 0}
    (folder / "test.jsonl").write_text(json.dumps(item, ensure_ascii=False) + "\n", "utf-8")
    train = "Esta pergunta só está no treino e por isso pode ficar onde está sem ser tocada."
    (folder / "train.jsonl").write_text(json.dumps({"question": train}) + "\n", "utf-8")
    return {"name": "livros", "path": str(folder)}


def run(stage: Stage, tmp_path: Path, task: dict[str, str], *texts: str, **more: object) -> Left:
    (tmp_path / "a.jsonl").write_bytes(json_lines(*GOOD, *texts))
    return stage(tmp_path / "a.jsonl", decontaminate=[task], near_duplicates=None, **more)


def test_lines_that_share_13_words_are_cut(
    stage: Stage, tmp_path: Path, task: dict[str, str]
) -> None:
    text = f"Uma linha antes.\nA prova perguntou: «{RUN.upper()}»\nUma linha depois."
    left = run(stage, tmp_path, task, text)
    assert "Uma linha antes.\nUma linha depois." in left.texts()
    assert left.counts["contaminated_by_task"] == {"livros": 1}
    assert left.counts["notes"]["contaminated-lines-cut"] == 1


def test_ngram_over_two_lines_cuts_both(stage: Stage, tmp_path: Path, task: dict[str, str]) -> None:
    words = RUN.split()
    text = "Antes.\n" + " ".join(words[:6]) + "\n" + " ".join(words[6:]) + "\nDepois."
    assert "Antes.\nDepois." in run(stage, tmp_path, task, text).texts()


def test_12_words_and_the_train_split_are_left_alone(
    stage: Stage, tmp_path: Path, task: dict[str, str]
) -> None:
    train = "Esta pergunta só está no treino e por isso pode ficar onde está sem ser tocada."
    left = run(stage, tmp_path, task, f"A prova: {SHORT}.", train)
    assert len(left.texts()) == 6
    assert left.counts["contaminated_by_task"] == {}


def test_drop_keeps_the_text_under_its_reason(
    stage: Stage, tmp_path: Path, task: dict[str, str]
) -> None:
    text = f"Antes.\n{RUN}\nDepois."
    left = run(stage, tmp_path, task, text, decontaminate_by="drop")
    assert left.dropped() == {"contaminated": [text]}
    nothing_left = run(stage, tmp_path, task, RUN, out="other")
    assert nothing_left.dropped() == {"contaminated": [RUN]}


def test_task_without_files_is_an_error(stage: Stage, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"decontaminate nada - no \.jsonl, .* or \.parquet file behind"
    ):
        run(stage, tmp_path, {"name": "nada", "path": str(tmp_path / "nowhere")})


@pytest.mark.parametrize("language", ["th", "km", "zh", "ja", "my", "ar", "hi", "yo", "vi", "am"])
def test_a_question_is_found_in_any_script(language: str, stage: Stage, tmp_path: Path) -> None:
    rng = random.Random(language)
    question, *others = (script_texts.text_of(language, rng, 120) for _ in range(9))
    (tmp_path / "test.jsonl").write_text(json.dumps({"question": question}), "utf-8")
    planted = f"{others[0]}{question}{others[1]}"
    task = {"name": "exame", "path": str(tmp_path / "test.jsonl")}
    left = run(stage, tmp_path, task, planted, *others[2:], decontaminate_by="drop")
    assert left.dropped() == {"contaminated": [planted]}
    assert left.counts["items_too_short_by_task"] == {}


def test_items_too_short_to_look_for_are_counted_and_said(
    stage: Stage, tmp_path: Path, task: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    path = Path(task["path"]) / "test.jsonl"
    rows = [{"question": SHORT}, {"question": "村口那座石桥"}, {"question": QUESTION}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    assert run(stage, tmp_path, task).counts["items_too_short_by_task"] == {"livros": 2}
    assert "livros: 2 of 3 items are too short to be looked for" in capfd.readouterr().err


@pytest.mark.parametrize(
    "name", ["test.jsonl", "test.csv", "test.parquet", "test.json", "test.ndjson"]
)
def test_items_are_read_as_the_evaluation_reads_them(
    name: str, stage: Stage, tmp_path: Path
) -> None:
    """Line separators inside JSON, line breaks inside cells, `;` of spreadsheets, Parquet."""
    rows = [
        {"note": "a\u2028b\u2029c\x85d", "question": "uma\nduas"},
        {"note": "", "question": RUN},
    ]
    path = tmp_path / "tasks" / name
    path.parent.mkdir()
    if name == "test.csv":
        path.write_text(f'note;question\r\n;"uma\nduas"\r\n;"{RUN}"\r\n', "utf-8-sig")
    elif name == "test.parquet":
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path.write_text(lines, "utf-8")
    text = f"Uma linha antes.\n{RUN}\nUma linha depois."
    left = run(stage, tmp_path, {"name": "livros", "path": str(path)}, text)
    assert "Uma linha antes.\nUma linha depois." in left.texts()
