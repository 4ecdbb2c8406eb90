"""The 39 bad inputs of the corpus stage: what is kept, what is set aside, what stops the stage."""

from __future__ import annotations

import gzip
import os
import zipfile
from pathlib import Path

import pytest
import zstandard
from support.corpus_stage import GOOD, Stage, json_lines

from teenytinyllama.errors import UserError
from teenytinyllama.stages.corpus.readers import sources

LINES = json_lines(*GOOD)


def with_line(line: bytes) -> bytes:
    """The four good documents with a bad line as the third."""
    first, second, rest = LINES.split(b"\n", 2)
    return b"\n".join([first, second, line, rest])


def reasons(left: object) -> list[str]:
    return [row["reason"] for row in left.quarantine()]  # type: ignore[attr-defined]


QUARANTINED = {
    "1 invalid UTF-8": (b'{"text": "caf\xe9 da manh\xc3\xa3"}', "invalid-utf8"),
    "5 truncated JSON": (b'{"text": "cortado', "invalid-json"),
    "6 list": (b'["a", "b"]', "not-an-object"),
    "6 number": (b"42", "not-an-object"),
    "6 null": (b"null", "not-an-object"),
    "7 text key missing": (b'{"content": "outro campo"}', "text-missing"),
    "8 text null": (b'{"text": null}', "text-null"),
    "9 text number": (b'{"text": 7}', "text-number"),
    "10 text list": (b'{"text": ["a"]}', "text-list"),
    "11 text empty": (b'{"text": ""}', "text-empty"),
    "12 white space": (b'{"text": " \\n\\t "}', "text-blank"),
    "13 only control characters": (b'{"text": "\\u0000\\u0001"}', "text-blank"),
    "14 lone surrogate": (b'{"text": "meio emoji \\ud83d aqui"}', "lone-surrogate"),
    "15 giant line": (b'{"text": "' + b"a" * 5000 + b'"}', "line-too-long"),
    "16 nesting": (b'{"text": "x", "y": ' + b"[" * 1900 + b"]" * 1900 + b"}", "nesting-too-deep"),
    "17 duplicate text key": (b'{"text": "a", "text": "b"}', "duplicate-text-key"),
}


@pytest.mark.parametrize("case", QUARANTINED)
def test_one_bad_line_is_set_aside_and_the_rest_kept(
    case: str, stage: Stage, tmp_path: Path
) -> None:
    line, reason = QUARANTINED[case]
    path = tmp_path / "ruim.jsonl"
    path.write_bytes(with_line(line))
    left = stage(path, max_line_bytes=4096)
    assert sorted(left.texts()) == sorted(GOOD)
    (row,) = left.quarantine()
    assert (row["reason"], row["line"], row["source"]) == (reason, 3, "ruim")
    assert row["byte_offset"] == len(LINES[: LINES.index(b"\n", LINES.index(b"\n") + 1) + 1])
    assert len(row["excerpt"]) <= 200 and len(row["sha1"]) == 40
    counts = left.counts
    assert (counts["documents_read"], counts["documents_kept"]) == (5, 4)
    assert counts["bytes_quarantined"] == len(line)
    assert counts["sources"]["ruim"]["documents_quarantined"] == 1


@pytest.mark.parametrize(
    ("encoding", "named"),
    [
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16LE"),
        ("utf-16-be", "UTF-16BE"),
        ("utf-32", "UTF-32"),
        ("utf-32-le", "UTF-32LE"),
        ("cp1252", "CP1252"),
        ("iso8859-1", "CP1252"),
        ("cp850", "CP850"),
        ("mac_roman", "MACINTOSH"),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".txt", ".jsonl.gz"])
def test_2_another_encoding_is_named_with_the_command_that_mends_it(
    encoding: str, named: str, suffix: str, stage: Stage, tmp_path: Path
) -> None:
    data = LINES.decode("utf-8").encode(encoding)
    path = tmp_path / f"velho{suffix}"
    path.write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)
    with pytest.raises(UserError, match=rf"is written in {named}, .*iconv -f {named} -t UTF-8"):
        stage(path)


def test_3_byte_order_mark_is_stripped_and_counted(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "bom.jsonl").write_bytes(b"\xef\xbb\xbf" + LINES)
    (tmp_path / "bom.txt").write_bytes(b"\xef\xbb\xbf" + "Um texto só.".encode())
    left = stage(tmp_path / "bom.jsonl", tmp_path / "bom.txt")
    assert sorted(left.texts()) == sorted([*GOOD, "Um texto só."])
    assert left.counts["notes"]["byte-order-mark"] == 2


def test_4_truncated_last_line(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES + b'{"text": "sem fi')
    left = stage(tmp_path / "a.jsonl")
    assert sorted(left.texts()) == sorted(GOOD)
    assert reasons(left) == ["invalid-json"]


def test_7_text_key_missing_everywhere_names_the_keys(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"content": "a", "title": "b"}\n' * 300)
    with pytest.raises(UserError, match="they have content, title - fix: set text_key"):
        stage(tmp_path / "a.jsonl")


def test_7_dialogues_read_as_text_name_the_shape(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"messages": [{"role": "user", "content": "oi"}]}\n')
    with pytest.raises(UserError, match=r'set shape = "conversation" in corpus.sources.0, or'):
        stage(tmp_path / "a.jsonl")


@pytest.mark.parametrize("text", ['[{"text": "um"}]', '[\n{"text": "um"}\n]', '{\n"text": "um"\n}'])
def test_a_file_that_is_one_json_value_names_the_command(
    text: str, stage: Stage, tmp_path: Path
) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=r"json-not-lines.*jq -c '\.\[\]' .*a\.json > a\.jsonl"):
        stage(tmp_path / "a.json")


def test_text_encoded_twice_is_read_rightly_and_counted(stage: Stage, tmp_path: Path) -> None:
    text = "Não é só “ação”:\na avó põe pão à mesa às três — e “já”.\nÁgua e Índio."
    again = text.encode().decode("latin-1")
    windows = "A ação é boa, e o pão também."
    honest = "AMANHÃ… até amanhã. À mesa, três irmãs põem pão."
    (tmp_path / "a.jsonl").write_bytes(json_lines(again, windows.encode().decode("cp1252"), honest))
    left = stage(tmp_path / "a.jsonl", near_duplicates=None)
    assert left.counts["notes"]["encoded-twice"] == 2
    assert set(left.texts()) == {text, windows, honest}


def test_26_files_of_other_kinds_are_named(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.csv", "b.pdf"):
        (tmp_path / "in" / name).write_text("x")
    with pytest.raises(UserError, match=r"only files of kinds it cannot read \(a\.csv, b\.pdf\)"):
        stage(tmp_path / "in")


def test_13_control_characters_are_taken_out_and_counted(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(json_lines("um\x00 dois\x1b[31m\r\ntrês", "quatro"))
    left = stage(tmp_path / "a.jsonl")
    assert sorted(left.texts()) == ["quatro", "um dois[31m\ntrês"]
    assert left.counts["notes"] == {"control-characters": 1}


def test_15_giant_line_is_never_held(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    first, rest = LINES.split(b"\n", 1)
    path.write_bytes(first + b"\n" + b"x" * 3_000_000 + b"\n" + rest)
    left = stage(path, max_line_bytes=1_000_000)
    assert sorted(left.texts()) == sorted(GOOD)
    (row,) = left.quarantine()
    assert (row["detail"], row["num_bytes"]) == ("3000000 bytes", 3_000_000)
    assert left.counts["bytes_quarantined"] == 3_000_000


def test_17_other_duplicate_keys_are_counted(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES + b'{"text": "bom texto", "x": 1, "x": 2}\n')
    left = stage(tmp_path / "a.jsonl")
    assert len(left.texts()) == 5
    assert left.counts["notes"] == {"duplicate-keys": 1}


def test_18_crlf_and_blank_lines_are_no_fault(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\r\n\n" + LINES.replace(b"\n", b"\r\n\r\n"))
    left = stage(tmp_path / "a.jsonl")
    assert sorted(left.texts()) == sorted(GOOD)
    assert left.counts["documents_read"] == 4


MANY = [f"Documento número {n}: {GOOD[n % 4]} Fim do documento {n}." for n in range(400)]


@pytest.mark.parametrize("name", ["gz", "zst"])
def test_19_truncated_file_keeps_every_complete_document(
    name: str, stage: Stage, tmp_path: Path
) -> None:
    whole = json_lines(*MANY)
    packed = gzip.compress(whole) if name == "gz" else _blocks(whole)
    path = tmp_path / f"a.jsonl.{name}"
    path.write_bytes(packed[: len(packed) // 2])
    left = stage(path)
    kept = left.counts["documents_kept"]
    assert 50 < kept < 390
    assert sorted(left.texts()) == sorted(MANY[:kept])
    (row,) = left.quarantine()
    assert row["reason"] == ("gzip-truncated" if name == "gz" else "zstd-truncated")
    assert row["line"] == kept + 1
    assert f"truncated at byte {len(packed) // 2}" in row["detail"]
    assert left.counts["notes"]["file-partial"] == 1


def _blocks(data: bytes) -> bytes:
    """Zstandard in small blocks: a cut loses the block it falls in."""
    pack = zstandard.ZstdCompressor().compressobj()
    parts = []
    for start in range(0, len(data), 1000):
        parts.append(pack.compress(data[start : start + 1000]))
        parts.append(pack.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
    return b"".join([*parts, pack.flush()])


def test_20_bit_flip_keeps_what_stands_before_it(stage: Stage, tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(json_lines(*MANY)))
    packed[len(packed) // 2] ^= 0xFF
    (tmp_path / "a.jsonl.gz").write_bytes(packed)
    left = stage(tmp_path / "a.jsonl.gz", max_quarantined_fraction=1.0)
    assert len(set(left.texts()) & set(MANY)) > 50
    assert left.counts["notes"]["file-partial"] == 1
    assert left.quarantine()[-1]["reason"] == "gzip-corrupt"


def test_21_garbage_after_gzip_is_a_note(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(LINES) + b"garbage")
    left = stage(tmp_path / "a.jsonl.gz")
    assert sorted(left.texts()) == sorted(GOOD)
    assert left.counts["notes"] == {"garbage-after-gzip": 1}


def test_21_members_end_to_end_are_one_file(stage: Stage, tmp_path: Path) -> None:
    two = [json_lines(*GOOD[:2]), json_lines(*GOOD[2:])]
    (tmp_path / "a.jsonl.gz").write_bytes(b"".join(map(gzip.compress, two)))
    (tmp_path / "b.jsonl.zst").write_bytes(
        b"".join(zstandard.ZstdCompressor().compress(json_lines(f"Outro {n}.")) for n in range(3))
    )
    left = stage(tmp_path / "a.jsonl.gz", tmp_path / "b.jsonl.zst")
    assert left.counts["documents_kept"] == 7
    assert left.counts["notes"] == {}


def test_22_the_packing_is_told_from_the_bytes(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "plain.jsonl.gz").write_bytes(json_lines(*GOOD[:2]))
    (tmp_path / "packed.jsonl").write_bytes(gzip.compress(json_lines(GOOD[2])))
    (tmp_path / "other.jsonl.gz").write_bytes(
        zstandard.ZstdCompressor().compress(json_lines(GOOD[3]))
    )
    left = stage(tmp_path / "*.jsonl*")
    assert sorted(left.texts()) == sorted(GOOD)
    assert left.counts["notes"] == {"packing-not-as-named": 3}


@pytest.mark.parametrize("name", ["gz", "zst"])
def test_23_bomb_is_stopped(name: str, stage: Stage, tmp_path: Path) -> None:
    bomb = b"0" * 40_000_000
    pack = gzip.compress if name == "gz" else zstandard.ZstdCompressor().compress
    (tmp_path / f"bomb.jsonl.{name}").write_bytes(pack(LINES + bomb))
    left = stage(tmp_path / f"bomb.jsonl.{name}", max_line_bytes=1 << 20)
    assert sorted(left.texts()) == sorted(GOOD)
    (row,) = left.quarantine()
    assert row["reason"] == "decompression-bomb"
    assert row["num_bytes"] < 40_000_000


def test_24_archives_are_refused_with_the_command(stage: Stage, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.jsonl", "w") as archive:
        archive.writestr("../../evil.jsonl", "x")
    with pytest.raises(UserError, match=r"is a zip archive, expected .* fix: unzip"):
        stage(tmp_path / "a.jsonl")
    assert not list(tmp_path.parent.glob("evil*"))


def test_25_parquet_without_the_column_or_damaged(stage: Stage, tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"content": ["a"], "title": ["b"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="no such column, the table has content, title"):
        stage(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-9])
    with pytest.raises(UserError, match=r"b\.parquet - cannot be read as parquet"):
        stage(tmp_path / "b.parquet")


def test_26_nothing_remains(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_bytes(b"")
    with pytest.raises(UserError, match="0 documents in all"):
        stage(tmp_path / "empty.jsonl")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r'no file behind ".*folder"'):
        stage(tmp_path / "folder")
    (tmp_path / "a.jsonl").write_bytes(LINES)
    with pytest.raises(UserError, match=r"0 documents remain of 4; largest filter: too-short \(4"):
        stage(tmp_path / "a.jsonl", min_document_bytes=1000)


def test_27_all_unreadable_paths_are_listed_at_once(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "good.jsonl").write_bytes(LINES)
    with pytest.raises(UserError, match=r"2 paths .*folder\.jsonl \(a folder.*gone.*dangling"):
        stage(tmp_path / "*.jsonl")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_27_no_permission(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    (tmp_path / "a.jsonl").chmod(0)
    with pytest.raises(UserError, match="Permission denied"):
        stage(tmp_path / "a.jsonl")


def test_28_file_that_changes_while_it_is_read(
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


def test_29_same_file_twice(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    (tmp_path / "b.jsonl").symlink_to(tmp_path / "a.jsonl")
    with pytest.raises(UserError, match=r"b\.jsonl is read already as .*a\.jsonl"):
        stage(tmp_path / "*.jsonl")


def test_29_duplicate_ids_are_told_apart(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(json_lines(*GOOD, id="one"))
    left = stage(tmp_path / "a.jsonl")
    assert sorted(row["id"] for row in left.rows("*-*.zst")) == ["one", "one#2", "one#3", "one#4"]
    assert left.counts["notes"] == {"duplicate-id": 3}


def test_30_nothing_but_duplicates(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(json_lines(*[GOOD[0]] * 9))
    with pytest.raises(UserError, match=r"1 documents remain of 9; largest filter: duplicate-exac"):
        stage(tmp_path / "a.jsonl")


ENGLISH = "The fox lives in the forest and she likes to tell the same old stories to everyone."


def test_31_another_language_is_said_and_too_much_of_it_stops(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("py3langid")
    foreign = [ENGLISH.replace("fox", f"fox {n}") for n in range(6)]
    (tmp_path / "a.jsonl").write_bytes(json_lines(*GOOD, *foreign))
    language = {"families": ["language"]}
    left = stage(tmp_path / "a.jsonl", filters=language)
    assert sorted(left.dropped()["language"]) == sorted(foreign)
    assert "60% of the documents are not in the language pt" in capsys.readouterr().err
    with pytest.raises(UserError, match=r'60% of 10 documents are not in the language "pt"'):
        stage(tmp_path / "a.jsonl", filters=language, max_foreign_fraction=0.5)


def test_addresses_reach_the_filters(stage: Stage, tmp_path: Path) -> None:
    lines = json_lines(*GOOD[:3]) + json_lines(GOOD[3], url="https://ruim.example/a")
    (tmp_path / "a.jsonl").write_bytes(lines)
    filters = {"families": ["address"], "blocked_domains": ["ruim.example"]}
    left = stage(tmp_path / "a.jsonl", filters=filters)
    assert [texts for texts in left.dropped().values()] == [[GOOD[3]]]


def test_32_missing_licence_names_the_line_to_add(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    with pytest.raises(UserError, match=r'a\.jsonl:1:license .*add license = "CC-BY-4\.0"'):
        stage(tmp_path / "a.jsonl", license="")
    (tmp_path / "b.jsonl").write_bytes(json_lines(*GOOD, license="unknown"))
    with pytest.raises(UserError, match="names no licence"):
        stage(tmp_path / "b.jsonl", license="")


def test_32_a_line_without_licence_among_others_is_set_aside(stage: Stage, tmp_path: Path) -> None:
    licensed = json_lines(*GOOD, license="MIT")
    (tmp_path / "a.jsonl").write_bytes(licensed + json_lines("Este não diz de quem é."))
    left = stage(tmp_path / "a.jsonl", license="")
    assert reasons(left) == ["license-missing"]
    assert {row["license"] for row in left.rows("*-*.zst")} == {"MIT"}


def test_33_addresses_are_not_fetched(stage: Stage) -> None:
    for path in ("http://169.254.169.254/latest", "file:///etc/passwd", "https://x.org/a.jsonl"):
        for kind in ("files", "hub"):
            with pytest.raises(UserError, match="is an address"):
                stage({"kind": kind, "path": path, "license": "MIT"})


def test_38_literal_special_tokens_are_made_harmless(stage: Stage, tmp_path: Path) -> None:
    text = "Digite <s>, </s>, <unk>, <|im_start|> ou <|user|>; mas <span> e <script> ficam."
    (tmp_path / "a.jsonl").write_bytes(json_lines(text, GOOD[0]))
    left = stage(tmp_path / "a.jsonl")
    expected = (
        "Digite < s>, < /s>, < unk>, < |im_start|> ou < |user|>; mas <span> e <script> ficam."
    )
    assert expected in left.texts()
    assert left.counts["notes"] == {"special-tokens": 1}


def test_39_one_normal_form_and_no_invisible_marks(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(json_lines("c\u0327a\u0303o", "in\u200bvi\u202es\u00adto"))
    left = stage(tmp_path / "a.jsonl")
    assert sorted(left.texts()) == ["invisto", "ção"]
    assert left.counts["notes"] == {"invisible-characters": 1, "normal-form": 1}
    as_is = stage(tmp_path / "a.jsonl", out="other", unicode_form="none")
    assert "c\u0327a\u0303o" in as_is.texts()


def test_too_many_bad_records_stop_the_stage(stage: Stage, tmp_path: Path) -> None:
    bad = b'{"text": null}\n' * 20
    (tmp_path / "a.jsonl").write_bytes(LINES + bad)
    with pytest.raises(UserError, match=r"20 of 24 records .* \(most: text-null, 20\)"):
        stage(tmp_path / "a.jsonl")
    left = stage(tmp_path / "a.jsonl", max_quarantined_fraction=0.9)
    assert left.counts["documents_quarantined"] == 20


def test_36_an_interrupted_run_done_again_gives_the_same_bytes(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jsonl").write_bytes(json_lines(*MANY))
    calm = stage(tmp_path / "a.jsonl", out="calm").folder

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("teenytinyllama.stages.corpus.corpus_writer.Closing._write_duplicates", dies)
        with pytest.raises(KeyboardInterrupt):
            stage(tmp_path / "a.jsonl", out="killed")
    killed = stage(tmp_path / "a.jsonl", out="killed").folder
    assert _bytes_of(killed) == _bytes_of(calm)


def _bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
