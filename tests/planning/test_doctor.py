"""`ttl doctor`: what it reports, and the command for what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch._inductor.config as inductor

from teenytinyllama.planning import doctor
from teenytinyllama.settings.recipe import Recipe, load_recipe


def test_everything_is_checked(tmp_path: Path) -> None:
    found = doctor.examine(tmp_path / "not" / "there")
    names = [row.name for row in found.checks]
    for name in ("python", "torch", "memory free", "disk free", "GPU", "matrix multiply"):
        assert name in names
    assert ("C++ compiler" in names) == (found.device == "cpu")
    assert found.peak_tflops > 0
    assert found.next_command.startswith("ttl ")


def test_a_missing_library_names_its_stage_and_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = doctor.find_spec
    monkeypatch.setattr(doctor, "find_spec", lambda n: None if n == "gguf" else real(n))
    rows = {row.name: row for row in doctor.examine(tmp_path).checks}
    assert rows["ttl quantize"].health == "warn"
    assert rows["ttl quantize"].fix == "pip install 'teenytinyllama[quantize]'"


def test_a_missing_compiler_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with inductor.patch({"cpp.cxx": (None, "no-such-compiler")}):
        rows = {row.name: row for row in doctor.examine(tmp_path).checks}
    assert rows["C++ compiler"].health == "warn"
    assert rows["C++ compiler"].fix.startswith("apt install g++")


def test_an_unwritable_folder_is_reported_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    assert doctor.examine(tmp_path).next_command == "choose another --run-dir"


def recipe_of(tmp_path: Path, **pretrain: object) -> Recipe:
    path = tmp_path / "r.toml"
    rows = "".join(f"{key} = {value}\n" for key, value in pretrain.items())
    path.write_text(f'name = "r"\n[quantize]\n[tokenizer]\nvocab_size = 1000\n[pretrain]\n{rows}')
    return load_recipe(path)


def test_a_recipe_is_compared_with_the_machine(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, num_steps=100, tokens_per_step=4096)
    found = doctor.examine(tmp_path, recipe, "r.toml")
    rows = {row.name: row for row in found.checks}
    assert rows["this run's model"].value == "115 M parameters"
    assert rows["micro-batch"].value == "2 rows of 2,048 tokens fit"
    # 12 bytes a parameter in each of three checkpoints, 4 in final/: 40 x 114.8 M.
    assert rows["disk needed"].value == "4.59 GB for checkpoints and model"
    assert "0.41 M tokens" in rows["pretraining"].value
    assert found.next_command == "ttl run r.toml"


def test_a_model_too_large_for_memory_is_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(tmp_path, num_steps=100)
    monkeypatch.setattr(doctor, "available_memory_bytes", lambda: 10**8)
    found = doctor.examine(tmp_path, recipe, "r.toml")
    rows = {row.name: row for row in found.checks}
    assert (rows["micro-batch"].health, rows["micro-batch"].value) == ("bad", "not one row fits")
    assert found.next_command == rows["micro-batch"].fix


def test_a_stage_of_the_recipe_needs_its_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = doctor.find_spec
    monkeypatch.setattr(doctor, "find_spec", lambda n: None if n == "gguf" else real(n))
    found = doctor.examine(tmp_path, recipe_of(tmp_path, num_steps=10), "r.toml")
    assert found.next_command == "pip install 'teenytinyllama[quantize]'"


def test_what_old_and_new_gpus_can() -> None:
    old = {c.name: c for c in doctor.what_a_gpu_can("Tesla T4", (7, 5), has_bf16=False)}
    assert old["precision"].health == "warn"
    assert "fp16-mixed" in old["precision"].fix
    assert old["attention"].value.startswith("memory-efficient")
    new = {c.name: c for c in doctor.what_a_gpu_can("NVIDIA H200", (9, 0), has_bf16=True)}
    assert new["precision"].health == "good"
    assert new["attention"].value == "cuDNN's; FlexAttention for isolated documents"
    assert new["peak of the data sheet"].value == "989 TFLOP/s"
