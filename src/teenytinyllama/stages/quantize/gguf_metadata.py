"""What a GGUF file says of its model: name, licence, languages, data sets (the GGUF specification).

Ollama, LM Studio and the Hub show it. It is what the cards say: from the manifests of the text.
"""

from __future__ import annotations

import math
from pathlib import Path

import gguf

from teenytinyllama.artifacts.manifest import read_manifest
from teenytinyllama.licenses import UNKNOWN, UNKNOWN_LEVEL, licenses_of, model_license, terms_of
from teenytinyllama.settings.datasets import Source
from teenytinyllama.stages.interface import StageContext
from teenytinyllama.stages.quantize.tensor_reader import TensorReader


def gguf_metadata(
    context: StageContext, model: TensorReader, corpus_dir: Path, align_dir: Path | None
) -> gguf.Metadata:
    """The `general.*` keys. An unknown licence is `other`, beside the names of the text's.

    Raises UserError where a source forbids the licence that is wanted.
    """
    licenses, datasets = [], []
    for folder in filter(None, (corpus_dir, align_dir)):
        manifest = read_manifest(folder)
        if manifest is None:
            continue
        licenses += licenses_of(manifest.counts, manifest.recipe)
        datasets += [_dataset(found) for found in manifest.recipe.get("sources", ())]
    own = model_license(context.license, licenses)
    is_known = terms_of(own).level < UNKNOWN_LEVEL
    size = sum(math.prod(shape) for shape in model.shapes().values())
    return gguf.Metadata(
        name=context.run_name,
        finetune="chat" if align_dir else None,
        size_label=gguf.size_label(size, 0, 0, 0),
        license=own if is_known else "other",
        license_name=None
        if is_known
        else ", ".join(sorted({one or UNKNOWN for one in licenses or [own]})),
        languages=[context.language],
        datasets=datasets or None,
    )


def _dataset(settings: dict[str, object]) -> dict[str, str]:
    """One source by its title, as counts and cards name it: no path of this machine."""
    source = Source.model_validate(settings)
    found = {"name": source.title}
    if source.kind == "hub" and source.path and not Path(source.path).exists():
        found["url"] = f"https://huggingface.co/datasets/{source.path}"
    elif source.origin.startswith(("http://", "https://")):
        found["url"] = source.origin
    return found
