"""docs/pipeline.md names every room, its folder and every field of the receipt."""

from __future__ import annotations

from pathlib import Path

from teenytinyllama.artifacts.manifest import Manifest
from teenytinyllama.pipeline.runner import ROOMS
from teenytinyllama.stages.report.run_record import FOLDERS

PAGE = (Path(__file__).parents[2] / "docs" / "pipeline.md").read_text(encoding="utf-8")


def test_every_room_and_folder_is_on_the_page() -> None:
    rows = [f"| `{room.name}` | `{room.folder}/` |" for room in ROOMS]
    assert [row for row in rows if row not in PAGE] == []


def test_every_field_of_the_receipt_is_on_the_page() -> None:
    assert [name for name in Manifest.model_fields if f"`{name}`" not in PAGE] == []


def test_the_report_knows_the_folders_of_all_rooms() -> None:
    rooms = {room.name: room.folder for room in ROOMS if room.name != "report"}
    assert dict(FOLDERS) == rooms
