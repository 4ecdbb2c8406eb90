"""docs/pipeline.md names every stage, its folder and every field of the manifest."""

from __future__ import annotations

from pathlib import Path

from teenytinyllama.artifacts.manifest import STAGE_NAMES, Manifest
from teenytinyllama.pipeline.registry import BY_NAME, STAGES

PAGE = (Path(__file__).parents[2] / "docs" / "pipeline.md").read_text(encoding="utf-8")


def test_every_stage_and_folder_is_on_the_page() -> None:
    rows = [f"| `{stage.name}` | `{stage.name}/` |" for stage in STAGES]
    assert [row for row in rows if row not in PAGE] == []


def test_every_field_of_the_manifest_is_on_the_page() -> None:
    assert [name for name in Manifest.model_fields if f"`{name}`" not in PAGE] == []


def test_the_manifests_that_others_read_are_those_before_the_report() -> None:
    assert [*STAGE_NAMES, "report"] == [stage.name for stage in STAGES]
    assert BY_NAME["report"].reads_if_there == STAGE_NAMES
