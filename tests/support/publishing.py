"""Publications of a finished run, planned or rejected."""

from __future__ import annotations

from pathlib import Path

import pytest

from teenytinyllama.errors import UserError
from teenytinyllama.publishing import publisher
from teenytinyllama.publishing.repositories import Repository


def prepare(run_dir: Path, to: str = "ana/pequeno", **options: object) -> list[Repository]:
    return publisher.prepare(publisher.PublishRequest(run_dir, to, **options))  # type: ignore[arg-type]


def rejection(run_dir: Path, code: str, **options: object) -> str:
    with pytest.raises(UserError) as error:
        prepare(run_dir, **options)  # type: ignore[arg-type]
    assert error.value.code == code, error.value
    assert "\n" not in str(error.value)
    return str(error.value)


def file_names(repository: Repository, revision: str = "main") -> set[str]:
    found = next(r for r in repository.revisions if r.name == revision)
    return {item.name for item in found.files}
