"""A task file in YAML before anything in it is believed: what it includes, which tags it holds.

Nothing is built from the file here, so no tag of it can run code. The walk needs the files that
are included (a change in one makes old scores stale), the evaluate stage needs the tags.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

PLAIN_TAGS = "tag:yaml.org,2002:"


class TaskFile(NamedTuple):
    """One file: its tags that are not YAML's own, every text in it, and what it includes."""

    path: Path
    tags: set[str]
    texts: list[str]
    includes: list[Path]


def read_task_file(path: Path) -> TaskFile:
    """One file, its includes not followed. Raises ValueError where it is no YAML."""
    import yaml  # the walk reads task files seldom, and opens fast

    try:
        root = yaml.compose(path.read_text(encoding="utf-8-sig"), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())[:200] or "nested too deep") from error
    found = TaskFile(path, set(), [], [])
    waiting, seen = [root] if root is not None else [], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if not node.tag.startswith(PLAIN_TAGS) or node.tag.startswith(f"{PLAIN_TAGS}python"):
            found.tags.add(node.tag)
        if isinstance(node, yaml.ScalarNode):
            found.texts.append(node.value)
        elif isinstance(node, yaml.SequenceNode):
            waiting.extend(node.value)
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                waiting.extend((key, value))
                # At any depth: a merge key (<<) lifts what an inner mapping names.
                if getattr(key, "value", None) == "include":
                    found.includes.extend(_named(value, path.parent))
    return found


def _named(value: object, folder: Path) -> list[Path]:
    """The paths of an include: one name or a list of names."""
    inner = getattr(value, "value", None)
    nodes = inner if isinstance(inner, list) else [value]
    names = [getattr(node, "value", None) for node in nodes]
    return [folder / name for name in names if isinstance(name, str)]


def with_includes(path: Path) -> list[TaskFile]:
    """A task file and all files that it includes, each once. Raises ValueError as above.

    A file that is not there is left out: who builds the task says so.
    """
    found: dict[Path, TaskFile] = {}
    waiting = [path]
    while waiting:
        one = waiting.pop()
        if one.resolve() not in found and one.is_file():
            found[one.resolve()] = read_task_file(one)
            waiting.extend(found[one.resolve()].includes)
    return list(found.values())
