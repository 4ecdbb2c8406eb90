"""The numbers of a Parquet footer, whole and damaged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.parquet import say_small

from teenytinyllama.artifacts.decompression import DamagedFileError
from teenytinyllama.artifacts.parquet import parquet_rows
from teenytinyllama.artifacts.parquet_footer import FooterError, read_pages, read_row_groups

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

ROWS = [
    {"text": "ação", "chat": [{"role": "user", "content": "oi"}]},
    {"text": None, "chat": None},
    {"text": "b", "chat": []},
]

DAMAGES = """
import sys
from pathlib import Path
from teenytinyllama.artifacts.decompression import DamagedFileError
from teenytinyllama.artifacts.parquet import parquet_rows

path = Path(sys.argv[1])
whole = path.read_bytes()
start = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
outcomes = {"read": 0, "refused": 0}
for place in range(start, len(whole)):
    for damage in (1, 2, 0x10, 0x80):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ damage]) + whole[place + 1 :])
        try:
            for row in parquet_rows(path):
                pass
            outcomes["read"] += 1
        except DamagedFileError:
            outcomes["refused"] += 1
print(outcomes["read"], outcomes["refused"])
"""


def test_no_damage_to_the_footer_ends_the_process(tmp_path: Path) -> None:
    """In a process of its own: pyarrow aborts on some, asked for a column's metadata."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path)
    child = subprocess.run(
        [sys.executable, "-c", DAMAGES, str(path)], capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr[-500:]
    read, refused = map(int, child.stdout.split())
    assert read > 100 and refused > 100


def test_a_footer_says_what_pyarrow_says(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([{**row, "a.b": 0.5} for row in ROWS])
    coded = {"use_dictionary": False, "column_encoding": {"text": "DELTA_BYTE_ARRAY"}}
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, row_group_size=2, **coded)
    about = pq.read_metadata(path)
    with path.open("rb") as file:
        groups = read_row_groups(file)
        pages = [[read_pages(file, column) for column in group.columns] for group in groups]
    assert [group.num_rows for group in groups] == [2, 1]
    for place, group in enumerate(groups):
        for number, column in enumerate(group.columns):
            known = about.row_group(place).column(number)
            assert ".".join(column.names) == known.path_in_schema
            assert pages[place][number].num_values == known.num_values
            assert pages[place][number].uncompressed_size == known.total_uncompressed_size
            assert column.delta_coded == (known.path_in_schema == "text")
    assert groups[0].columns[-1].names == ("a.b",)


def test_pages_are_counted_whatever_the_footer_says_of_them(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = pa.table({"text": ["0" * 20_000_000] * 2})
    pq.write_table(texts, path, compression="zstd", use_dictionary=False)
    say_small(path)
    assert pq.read_metadata(path).row_group(0).column(0).total_uncompressed_size == 100
    with pytest.raises(DamagedFileError, match="column text: 4000"):
        list(parquet_rows(path))


FOOTERS = {
    "lists in lists": b"\x19" * 5000,
    "sets in sets": b"\x1a" * 5000,
    "maps in maps": b"\x1b" + b"\x01\xbb" * 5000,
    "a field of 17 bits": b"\x05" + b"\x8a\x80\x08\x02\0",
    "more values than bytes": b"\x19\xf1" + b"\xff" * 9 + b"\x01",
}


@pytest.mark.parametrize("name", FOOTERS)
def test_a_footer_made_to_harm_is_damaged(name: str, tmp_path: Path) -> None:
    length = len(FOOTERS[name]).to_bytes(4, "little")
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1" + FOOTERS[name] + length + b"PAR1")
    with path.open("rb") as file, pytest.raises(FooterError):
        read_row_groups(file)
