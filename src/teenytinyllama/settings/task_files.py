"""The includes, tags and texts of an evaluation task's YAML file, without loading it.

No object is constructed from the file, so no tag can run code. The pipeline needs the includes (a
change in one makes scores stale), the evaluate stage the tags.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from teenytinyllama.regular_files import check_regular

PLAIN_TAGS = "tag:yaml.org,2002:"


class TaskFile(NamedTuple):
    """One file: its tags beyond YAML's own, all its scalars, and the files it includes."""

    path: Path
    tags: set[str]
    texts: list[str]
    includes: list[Path]


def read_task_file(path: Path) -> TaskFile:
    """Read one file without its includes. Raises ValueError where it is not YAML."""
    import yaml  # imported late: start-up seldom needs it

    check_regular(path)
    try:
        root = yaml.compose(path.read_text(encoding="utf-8-sig"), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())[:200] or "nested too deeply") from error
    task = TaskFile(path, set(), [], [])
    waiting, seen = [root] if root is not None else [], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if not node.tag.startswith(PLAIN_TAGS) or node.tag.startswith(f"{PLAIN_TAGS}python"):
            task.tags.add(node.tag)
        if isinstance(node, yaml.ScalarNode):
            task.texts.append(node.value)
        elif isinstance(node, yaml.SequenceNode):
            waiting.extend(node.value)
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                waiting.extend((key, value))
                # At any depth: a merge key (<<) lifts what an inner mapping names.
                if getattr(key, "value", None) == "include":
                    task.includes.extend(_named(value, path.parent))
    return task


def _named(value: object, folder: Path) -> list[Path]:
    """The paths of an include: one name or a list of names."""
    inner = getattr(value, "value", None)
    nodes = inner if isinstance(inner, list) else [value]
    names = [getattr(node, "value", None) for node in nodes]
    return [folder / name for name in names if isinstance(name, str)]


def with_includes(path: Path) -> list[TaskFile]:
    """A task file and all files that it includes, each once. Raises ValueError as above.

    Missing files are left out: loading the task reports them.
    """
    found: dict[Path, TaskFile] = {}
    waiting = [path]
    while waiting:
        one = waiting.pop()
        if one.resolve() not in found and one.is_file():
            found[one.resolve()] = read_task_file(one)
            waiting.extend(found[one.resolve()].includes)
    return list(found.values())
