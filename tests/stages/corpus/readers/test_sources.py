"""Every kind of source gives the same texts, each with licence, origin and place."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import zstandard
from support.corpus_stage import GOOD, Stage, json_lines

from teenytinyllama.errors import UserError
from teenytinyllama.settings.data_preparation import CorpusSettings
from teenytinyllama.stages.corpus.readers import sources
from teenytinyllama.stages.corpus.readers.sources import SourceReader


def test_files_of_every_kind_in_a_folder(stage: Stage, tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "fontes"
    (folder / "fundo").mkdir(parents=True)
    (folder / "a.txt").write_text(GOOD[0], "utf-8")
    (folder / "b.jsonl").write_bytes(json_lines(GOOD[1]))
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(json_lines(GOOD[2])))
    (folder / "fundo" / "d.jsonl.zst").write_bytes(
        zstandard.ZstdCompressor().compress(json_lines(GOOD[3]))
    )
    table = arrow.table({"text": ["Uma linha da tabela."], "url": ["https://x.br/1"]})
    parquet.write_table(table, folder / "e.parquet")
    (folder / "imagem.png").write_bytes(b"\x89PNG")
    left = stage(folder)
    rows = {row["text"]: row for row in left.rows("*-*.zst")}
    assert sorted(rows) == sorted([*GOOD, "Uma linha da tabela."])
    assert rows[GOOD[0]]["id"] == "a:1"
    assert rows["Uma linha da tabela."]["url"] == "https://x.br/1"
    assert {row["license"] for row in rows.values()} == {"CC0-1.0"}
    assert sorted(left.counts["sources"]) == ["b", "c", "d", "e", "fontes"]
    assert left.counts["notes"] == {"file-ignored": 1}


def test_counts_follow_the_lines_source_unless_the_recipe_names_one(
    stage: Stage, tmp_path: Path
) -> None:
    one = json_lines(*GOOD[:2], source="jornal") + json_lines(GOOD[2], source="github:a/b@c:d")
    (tmp_path / "a.jsonl").write_bytes(one + json_lines(GOOD[3]))
    left = stage(tmp_path / "a.jsonl")
    assert {n: r["documents_read"] for n, r in left.counts["sources"].items()} == {
        "jornal": 2,
        "a": 2,
    }
    named = stage(tmp_path / "a.jsonl", out="named", source={"name": "tudo"})
    assert list(named.counts["sources"]) == ["tudo"]


def test_local_folder_of_a_hub_dataset(stage: Stage, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    folder = tmp_path / "wiki-pt"
    folder.mkdir()
    rows = [
        {"id": n, "url": f"https://x.br/{n}", "title": "t", "text": t} for n, t in enumerate(GOOD)
    ]
    (folder / "train.jsonl").write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    left = stage({"kind": "hub", "path": str(folder), "license": "CC-BY-SA-4.0"})
    assert sorted(left.texts()) == sorted(GOOD)
    assert {row["source"] for row in left.rows("*-*.zst")} == {"wiki-pt"}
    with pytest.raises(UserError, match=r'wiki-pt", split "nenhum", cannot be read \(ValueError'):
        stage({"kind": "hub", "path": str(folder), "license": "MIT", "split": "nenhum"})


def test_storybook_needs_no_licence(stage: Stage) -> None:
    left = stage({"kind": "storybook", "num_documents": 50, "seed": 3})
    assert left.counts["documents_kept"] == 50
    assert left.counts["licenses"] == {"Apache-2.0": 50}


def reading_of(*entries: dict[str, Any]) -> SourceReader:
    settings = CorpusSettings.model_validate({"sources": entries})
    return SourceReader(settings, "pt", sources.find_files(settings, Counter()), Counter())


def test_position_is_exact_at_the_end_of_every_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "BATCH_ITEMS", 5)
    lines = json_lines(*(f"linha {n} de muitas, {n * n}" for n in range(20)))
    plain, packed = tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz"
    plain.write_bytes(lines)
    packed.write_bytes(gzip.compress(lines))
    entries = [{"kind": "files", "path": str(p), "license": "CC0-1.0"} for p in (plain, packed)]
    reading = reading_of(*entries)
    sizes = [path.stat().st_size / 1e6 for path in (plain, packed)]
    assert reading.total_megabytes == pytest.approx(sum(sizes))
    places = [reading.megabytes for _ in reading.batches()]
    assert len(places) == 8
    assert places == sorted(places)
    assert 0 < places[0] < sizes[0] < places[4] <= sum(sizes)
    assert reading.megabytes == pytest.approx(sum(sizes))


def test_source_without_files_has_no_total() -> None:
    made = {"kind": "storybook", "license": "CC0-1.0", "num_documents": 3}
    assert reading_of(made).total_megabytes is None


def test_progress_shows_documents_and_bytes(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jsonl").write_bytes(json_lines("Um texto.", "Outro texto.") + b"{oops\n")
    stage(tmp_path / "a.jsonl")
    assert "MB" in (said := capsys.readouterr().err)
    assert "3 documents" in said


LINES = json_lines(*GOOD)


def test_25_parquet_without_the_column_or_damaged_is_an_error(stage: Stage, tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"content": ["a"], "title": ["b"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="no such column, the table has content, title"):
        stage(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-9])
    with pytest.raises(UserError, match=r"b\.parquet - cannot be read as parquet"):
        stage(tmp_path / "b.parquet")


def test_a_column_of_text_is_read_whatever_its_type_and_no_other(
    stage: Stage, tmp_path: Path
) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.PARQUET"
    texts = arrow.array(GOOD)
    kinds = [arrow.large_string(), arrow.string_view(), arrow.binary(), arrow.large_binary()]
    for number, column in enumerate([*map(texts.cast, kinds), texts.dictionary_encode()]):
        parquet.write_table(arrow.table({"text": column}), path)
        assert sorted(stage(path, out=str(number)).texts()) == sorted(GOOD)
    others = [[1, 2], [["um"], ["dois"]], [{"pt": "um"}, None], [1.5, None], [True, False]]
    for values in others:
        parquet.write_table(arrow.table({"text": values, "corpo": ["a", "b"]}), path)
        with pytest.raises(
            UserError, match=r"text - expected a column of texts, row 1 .* text_key"
        ):
            stage(path, out="other")


def test_26_files_of_other_kinds_are_named_with_what_to_do(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.xlsx", "b.doc", "c.DOC", "d.tar.gz"):
        (tmp_path / "in" / name).write_text("x")
    with pytest.raises(UserError, match=r"\(2 \.doc, 1 \.xlsx, 1 \.tar\).* fix: soffice .*b\.doc"):
        stage(tmp_path / "in")
    (tmp_path / "in" / "z.jsonl").write_bytes(LINES)
    left = stage(tmp_path / "in", out="with")
    assert left.counts["notes"] == {"file-ignored": 4}
    said = capsys.readouterr().err
    assert f"not read in {tmp_path / 'in'}: 2 .doc, 1 .xlsx, 1 .tar; to read them" in said


@pytest.mark.parametrize(
    ("sign", "first", "name"),
    [
        (",", "", "a b.csv"),
        (";", "", "a b.csv"),
        (";", "sep=;\r\n", "a b.CSV"),
        ("\t", "", "a b.tsv"),
    ],
)
def test_tables_in_text_are_read(
    sign: str, first: str, name: str, stage: Stage, tmp_path: Path
) -> None:
    path = tmp_path / name
    rows = "".join(f'"{t},\n""a"""{sign}pt\n' for t in GOOD)
    path.write_text(f"\ufeff{first}text{sign}lang\n{rows}", "utf-8")
    left = stage(path)
    assert sorted(left.texts()) == sorted(f'{text},\n"a"' for text in GOOD)
    with pytest.raises(UserError, match=r":corpo - no such column, the table has text, lang"):
        stage(path, out="other", source={"text_key": "corpo"})


def test_a_table_of_an_older_encoding_and_a_wrong_byte_in_one(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("texto;n\n" + "".join(f"{t} ação é não;1\n" for t in GOOD), "cp1252")
    left = stage(path, source={"text_key": "texto"})
    assert sorted(left.texts()) == sorted(f"{text} ação é não" for text in GOOD)
    assert left.counts["notes"]["decoded-cp1252"] == 1
    rows = [f"{text};1".encode() for text in GOOD]
    path.write_bytes(b"\n".join([b"texto;n", *rows, b"um \xff sapo;1", b"um;dois;tres"]))
    left = stage(path, out="wrong", source={"text_key": "texto"}, max_quarantined_fraction=0.5)
    assert sorted(left.texts()) == sorted(GOOD)
    assert sorted(row["reason"] for row in left.quarantine()) == ["invalid-row", "lone-surrogate"]


@pytest.mark.parametrize(("border", "source"), [("\n\n", "livro.txt"), ("\r\n", ".")])
def test_one_text_file_is_one_document_and_the_advice_cuts_it(
    border: str, source: str, stage: Stage, tmp_path: Path
) -> None:
    (tmp_path / "livro.txt").write_bytes(border.join(GOOD).encode())
    with pytest.raises(UserError, match=r"is one document, as every \.txt is") as error:
        stage(tmp_path / source, out="../out")
    assert (f"name {tmp_path / 'livro.jsonl'} in path" in error.value.fix) == (source != ".")
    command = error.value.fix.split("paragraphs: ")[1]
    environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(command, shell=True, check=True, env=environment)
    cut = tmp_path / ("." if source == "." else "livro.jsonl")
    assert sorted(stage(cut, out="../out").texts()) == sorted(GOOD)


def test_no_command_is_given_that_could_not_read_the_file(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "livro.txt").write_bytes("ação não coração".encode("cp1252"))
    with pytest.raises(UserError, match=r"is one document.* fix: give more files$"):
        stage(tmp_path / "livro.txt")


def test_a_folder_of_the_datasets_library_is_no_folder_of_files(
    stage: Stage, tmp_path: Path
) -> None:
    (tmp_path / "ds").mkdir()
    (tmp_path / "ds" / "data-00000-of-00001.arrow").write_bytes(b"ARROW1")
    (tmp_path / "ds" / "dataset_info.json").write_text('{\n "features": {}\n}')
    with pytest.raises(UserError, match=r'fix: kind = "hub" and path = ".*ds" in corpus'):
        stage(tmp_path)


def test_a_table_in_folders_names_the_folder_to_read(stage: Stage, tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"text": GOOD * 2, "lang": ["pt"] * len(GOOD) + ["en"] * len(GOOD)})
    parquet.write_to_dataset(table, tmp_path / "t", partition_cols=["lang"])
    with pytest.raises(UserError, match=f'fix: give path = "{tmp_path}/t/lang=pt" instead'):
        stage(tmp_path / "t", source={"only": {"lang": "pt"}})


def test_the_texts_of_a_folder_and_the_shards_of_a_set_are_one_source(
    stage: Stage, tmp_path: Path
) -> None:
    (tmp_path / "contos").mkdir()
    for number in range(30):
        (tmp_path / "contos" / f"{number}.txt").write_text(f"Conto {number}: {GOOD[0]}", "utf-8")
    for number in range(3):
        (tmp_path / f"wiki-0000{number}-of-00003.jsonl").write_bytes(
            json_lines(f"Verbete {number}.")
        )
    entries = [
        {"kind": "files", "path": str(tmp_path / path), "license": "CC0-1.0"}
        for path in ("contos/*.txt", "wiki-*.jsonl")
    ]
    left = stage(*entries, near_duplicates=None)
    found = {name: row["documents_read"] for name, row in left.counts["sources"].items()}
    assert found == {"contos": 30, "wiki": 3}
    assert {row["id"] for row in left.rows("*-*.zst")} >= {"7:1", "wiki-00001-of-00003:1"}


def test_pages_in_files_are_read_as_pages_of_the_web(stage: Stage, tmp_path: Path) -> None:
    pytest.importorskip("trafilatura")
    for number, text in enumerate(GOOD):
        page = (
            '<html><head><meta charset="iso-8859-1"></head><body><nav>Menu Início Sair</nav>'
            f"<article><h1>Título</h1><p>{text} {text}</p><p>{'Fim do conto. ' * 20}{number}</p>"
            "</article></body></html>"
        )
        (tmp_path / f"p{number}.html").write_bytes(page.encode("iso-8859-1"))
    (tmp_path / "p0.html").rename(tmp_path / "P0.TXT")  # as browsers save them, too
    left = stage(tmp_path, out="../out", near_duplicates=None)
    assert len(left.texts()) == 4
    assert all("Menu" not in text and "Fim do conto." in text for text in left.texts())
    assert any(GOOD[0] in text for text in left.texts())


def test_json_lines_named_as_text_are_records(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "A.TXT").write_bytes(LINES)
    assert sorted(stage(tmp_path / "A.TXT", out="a").texts()) == sorted(GOOD)
    (tmp_path / "b.txt").write_text('{"a": 1} é um objeto de JSON.\n\n' + GOOD[0])
    (tmp_path / "c.txt").write_text(GOOD[1])
    assert len(stage(tmp_path / "[bc].txt", out="b").texts()) == 2


def _rows(lang: object) -> list[dict[str, Any]]:
    return [{"text": text, "lang": lang if n < 2 else "outro"} for n, text in enumerate(GOOD)]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("stored", "wanted"),
    [("pt", "pt"), (True, "true"), (True, True), (7, "7"), (7, 7), (1.0, "1"), (0.5, 0.5)],
)
def test_only_selects_the_same_from_every_format(
    kind: str, stored: object, wanted: object, stage: Stage, tmp_path: Path
) -> None:
    rows = [row | {"lang": stored if n < 2 else None} for n, row in enumerate(_rows(stored))]
    left = stage(_write(rows, kind, tmp_path), source={"only": {"lang": wanted}})
    assert sorted(left.texts()) == sorted(GOOD[:2])
    assert left.counts["filtered_by_reason"] == {"not-selected": 2}


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_only_that_selects_nothing_is_an_error(kind: str, stage: Stage, tmp_path: Path) -> None:
    path = _write(_rows("pt"), kind, tmp_path)
    with pytest.raises(UserError, match="no record has lang = 'en'"):
        stage(path, source={"only": {"lang": "en"}})
    with pytest.raises(UserError, match=r"(has|have the fields) text, lang"):
        stage(path, source={"only": {"language": "pt"}})


CHATS = {
    "messages": (
        [
            [{"role": "user", "content": f"Oi {n}?"}, {"role": "assistant", "content": text}]
            for n, text in enumerate(GOOD)
        ],
        {},
    ),
    "keys": (list(GOOD), {"question_key": "pergunta", "answer_key": "resposta"}),
}


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("layout", ["messages", "keys"])
def test_conversations_are_read_from_every_format(
    kind: str, layout: str, stage: Stage, tmp_path: Path
) -> None:
    values, keys = CHATS[layout]
    if layout == "messages":
        rows = [{"messages": value} for value in values]
    else:
        rows = [{"pergunta": f"Oi {n}?", "resposta": v} for n, v in enumerate(values)]
    source = {"shape": "conversation", **keys}
    left = stage(_write(rows, kind, tmp_path), source=source, near_duplicates=None)
    assert sorted(left.texts()) == sorted(f"Oi {n}?\n\n{text}" for n, text in enumerate(GOOD))


def _write(rows: list[dict[str, Any]], kind: str, folder: Path) -> Path:
    path = folder / f"a.{kind}"
    if kind == "parquet":
        arrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(arrow.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_a_pipe_among_the_files_is_named_at_once(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    os.mkfifo(tmp_path / "b.jsonl")
    with pytest.raises(UserError, match=r"b\.jsonl \(is a pipe, expected a regular file\)"):
        stage(tmp_path / "*.jsonl")


def test_names_that_are_not_utf8_are_read(stage: Stage, tmp_path: Path) -> None:
    folder = tmp_path / "in" / os.fsdecode(b"caf\xe9")
    folder.mkdir(parents=True)
    (folder / os.fsdecode(b"a\xff.jsonl")).write_bytes(LINES + b"{bad\n")
    (folder / os.fsdecode(b"b\xff.TXT")).write_text("Um texto em um arquivo.", "utf-8")
    left = stage(tmp_path / "in")
    assert sorted(left.texts()) == sorted([*GOOD, "Um texto em um arquivo."])
    assert {row["id"] for row in left.rows("*-*.zst")} >= {"a\ufffd:1", "b\ufffd:1"}
    assert left.counts["documents_quarantined"] == 1


def test_27_all_unreadable_paths_are_listed_at_once(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "good.jsonl").write_bytes(LINES)
    with pytest.raises(UserError, match=r"2 paths .*folder\.jsonl \(a folder.*gone.*dangling"):
        stage(tmp_path / "*.jsonl")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_27_unreadable_file_is_an_error(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    (tmp_path / "a.jsonl").chmod(0)
    with pytest.raises(UserError, match="Permission denied"):
        stage(tmp_path / "a.jsonl")


def test_28_file_that_changes_while_read_is_an_error(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINES)
    read = sources.lines_of

    def slowly(*args: object, **named: object) -> object:
        yield from read(*args, **named)  # type: ignore[arg-type]
        path.write_bytes(LINES + LINES)

    monkeypatch.setattr(sources, "lines_of", slowly)
    with pytest.raises(UserError, match="changed while it was read"):
        stage(path)


def test_29_same_file_twice_is_an_error(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    (tmp_path / "b.jsonl").symlink_to(tmp_path / "a.jsonl")
    with pytest.raises(UserError, match=r"b\.jsonl is read already as .*a\.jsonl"):
        stage(tmp_path / "*.jsonl")


def test_33_urls_are_not_fetched(stage: Stage) -> None:
    for path in ("http://169.254.169.254/latest", "file:///etc/passwd", "https://x.org/a.jsonl"):
        for kind in ("files", "hub"):
            with pytest.raises(UserError, match="is an address"):
                stage({"kind": kind, "path": path, "license": "MIT"})
