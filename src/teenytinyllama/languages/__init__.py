"""What is particular to a language, one folder per ISO 639 code; data only.

`languages/<code>/prompts.toml` holds openings to sample from during training. Other files belong
to the room that reads them.
"""

from __future__ import annotations

import tomllib
from importlib import resources


def prompts_of(language: str) -> tuple[str, ...]:
    """Openings that a model of this language is asked to continue; empty text where none are known.

    An empty opening means: begin at BOS. A language without a folder needs nothing more.
    """
    path = resources.files(__name__) / language / "prompts.toml"
    if not path.is_file():
        return ("",)
    return tuple(tomllib.loads(path.read_text(encoding="utf-8"))["openings"])
