"""Hugging Face data sets, by id or as a local folder that is read without the network.

A folder's `README.md` may name its files. What it names is read only inside the folder: a folder
that somebody sent must not make us read other files of this machine, or ask other machines.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from teenytinyllama.errors import UserError, missing_extra
from teenytinyllama.regular_files import open_regular, user_path

METADATA_NAMES = ("README.md", ".huggingface.yaml")
MAX_METADATA_BYTES = 4 << 20
FORMATS = frozenset({"json", "csv", "parquet", "text", "arrow", "xml", "hdf5", "lance"})
"""Packaged readers of `datasets` whose rows hold no paths of further files."""


def stream_dataset(path: str, *, config: str, split: str, revision: str) -> Any:
    """Rows of a split, as `datasets` streams them. Raises what `datasets` raises, or UserError."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise missing_extra("datasets", "corpus") from error
    folder = user_path(path)
    if folder.is_dir():
        return _stream_folder(folder, config, split)
    if path.startswith(("/", ".", "~")) or path.count("/") > 1 or folder.exists():
        raise UserError(
            "dataset-folder",
            path,
            "is not a folder, expected the folder of a data set, or an id like owner/name",
            "give the folder that holds the data set's files",
        )
    return load_dataset(
        path, name=config or None, split=split, revision=revision or None, streaming=True
    )


def _stream_folder(folder: Path, config: str, split: str) -> Any:
    from datasets import load_dataset_builder

    _check_files(folder)
    for name in METADATA_NAMES:
        _check_metadata(folder / name, folder)
    with offline():
        builder = load_dataset_builder(str(folder), name=config or None)
        kinds = [kind.__name__.lower() for kind in type(builder).__mro__]
        if not FORMATS.intersection(kinds):
            raise UserError(
                "dataset-kind",
                str(folder),
                f"is read as {kinds[1]}, expected rows of text",
                f"give a folder of one of: {', '.join(sorted(FORMATS))}",
            )
        for files in (builder.config.data_files or {}).values():
            for file in files:
                _check_inside(str(file), folder, "its files")
        return builder.as_streaming_dataset(split=split)


@contextmanager
def offline() -> Iterator[None]:
    """While this lasts, the Hub's libraries ask no other machine."""
    import datasets.config
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def _check_files(folder: Path) -> None:
    """Raise UserError for a link that leads out of the folder, or what is no regular file."""
    for path in folder.rglob("*"):
        if path.is_symlink():
            _check_inside(str(path), folder, "a link")
        if path.exists() and not path.is_dir() and not path.name.startswith("."):
            open_regular(path).close()


def _check_metadata(path: Path, folder: Path) -> None:
    """Raise UserError where the folder's metadata names anything outside of it."""
    import yaml

    if not path.is_file():
        return
    with open_regular(path) as file:
        text = file.read(MAX_METADATA_BYTES).decode("utf-8", "replace").replace("\r\n", "\n")
    if path.suffix == ".md":
        parts = text.lstrip("\ufeff \n").split("---", 2)
        text = parts[1] if len(parts) == 3 and not parts[0] else ""
    try:
        about = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(
            "dataset-metadata", str(path), f"is no YAML ({str(error)[:100]})", "fix or remove it"
        ) from error
    configs = about.get("configs") if isinstance(about, dict) else None
    for one in configs if isinstance(configs, list) else ():
        if isinstance(one, dict):
            for key in ("data_files", "data_dir"):
                for named in _texts(one.get(key), set()):
                    _check_inside(named, folder, path.name)


def _texts(value: object, seen: set[int]) -> Iterator[str]:
    """All texts in a value of YAML; what is referred to often is looked at once."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict) and id(value) not in seen:
        seen.add(id(value))
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part, seen)


def _check_inside(named: str, folder: Path, who: str) -> None:
    root = folder.resolve()
    is_plain = "://" not in named and "::" not in named and ".." not in PurePosixPath(named).parts
    inside = is_plain and (root / named).resolve().is_relative_to(root)
    # A folder of the Hub's own cache: its files are links to ../../blobs.
    blobs = root.parent.parent / "blobs"
    if not inside and is_plain and root.parent.name == "snapshots":
        inside = (root / named).resolve().is_relative_to(blobs)
    if not inside:
        raise UserError(
            "dataset-outside",
            str(folder),
            f'{who} names "{named[:200]}", which is not in the folder',
            "put the file into the folder, or give it as a source of its own",
        )
