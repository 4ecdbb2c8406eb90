"""A GGUF file says whose model it is: licence, languages and data sets, read back by `gguf`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gguf
import pytest
from support.manifests import manifest_of

from teenytinyllama.artifacts.manifest import write_manifest
from teenytinyllama.artifacts.vocabulary import read_vocabulary
from teenytinyllama.errors import UserError
from teenytinyllama.stages.interface import StageContext
from teenytinyllama.stages.quantize.gguf_metadata import gguf_metadata
from teenytinyllama.stages.quantize.gguf_writer import write_gguf
from teenytinyllama.stages.quantize.tensor_reader import TensorReader

WIKI = {"kind": "hub", "path": "owner/wiki", "license": "CC-BY-SA-4.0"}
LAWS = {"kind": "files", "path": "/home/ana/leis/*.txt", "license": "CC0-1.0"}
CHATS = {"kind": "storybook", "license": "MIT", "origin": "https://example.org/chats"}


@pytest.fixture
def text_dirs(tmp_path: Path) -> tuple[Path, Path]:
    """A corpus of two licences and the chats, as their manifests tell of them."""
    folders = tmp_path / "corpus", tmp_path / "align"
    for folder, sources, counts in (
        (folders[0], [WIKI, LAWS], {"licenses": {"CC-BY-SA-4.0": 9, "CC0-1.0": 1}}),
        (folders[1], [CHATS], {}),
    ):
        folder.mkdir()
        recipe = {"sources": sources}
        write_manifest(folder, manifest_of(folder.name, recipe=recipe, counts=counts))
    return folders


def test_gguf_reads_back_all_that_the_file_says_of_itself(
    run_dir: Path, text_dirs: tuple[Path, Path], stage_context: StageContext, tmp_path: Path
) -> None:
    model, path = TensorReader(run_dir / "pretrain" / "final"), tmp_path / "model.gguf"
    about = gguf_metadata(stage_context, model, *text_dirs)
    write_gguf(model, read_vocabulary(run_dir / "tokenizer"), "f16", path, about=about)
    fields = {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}
    size = sum(tensor.n_elements for tensor in gguf.GGUFReader(path).tensors)
    assert {k: v for k, v in fields.items() if k.startswith("general.")} == {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": "test",
        "general.finetune": "chat",
        "general.size_label": f"{round(size / 1000)}K",
        "general.license": "CC-BY-SA-4.0",
        "general.languages": ["pt"],
        "general.dataset.count": 3,
        "general.dataset.0.name": "wiki",
        "general.dataset.0.url": "https://huggingface.co/datasets/owner/wiki",
        "general.dataset.1.name": "leis",
        "general.dataset.2.name": "storybook",
        "general.dataset.2.url": "https://example.org/chats",
        "general.datasets": [
            "https://huggingface.co/datasets/owner/wiki",
            "leis",
            "https://example.org/chats",
        ],
        "general.file_type": gguf.LlamaFileType.MOSTLY_F16,
        "general.quantization_version": gguf.GGML_QUANT_VERSION,
    }


def test_the_licence_is_the_card_s(
    run_dir: Path, text_dirs: tuple[Path, Path], stage_context: StageContext
) -> None:
    model, (corpus_dir, align_dir) = TensorReader(run_dir / "pretrain" / "final"), text_dirs
    wanted = replace(stage_context, license="CC-BY-SA-3.0")
    assert gguf_metadata(wanted, model, corpus_dir, None).license == "CC-BY-SA-3.0"
    with pytest.raises(UserError, match="license-clash"):
        gguf_metadata(replace(stage_context, license="MIT"), model, corpus_dir, None)
    counts = {"licenses": {"": 1, "CC0-1.0": 3}}
    write_manifest(align_dir, manifest_of("align", counts=counts))
    unknown = gguf_metadata(stage_context, model, align_dir, None)
    assert (unknown.license, unknown.license_name) == ("other", "CC0-1.0, unknown")
    assert unknown.finetune is None and unknown.datasets is None
