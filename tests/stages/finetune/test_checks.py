"""What fine-tuning would fail on, before it runs."""

from __future__ import annotations

from pathlib import Path

from support.recipe_checks import problems


def test_a_folder_that_is_not_there_and_epochs_without_end(tmp_path: Path) -> None:
    recipe = f'[finetune]\ntasks = [{{ name = "s", path = "{tmp_path}/cls" }}]\n'
    assert problems(tmp_path, recipe, "finetune").keys() == {"task-missing"}
    (tmp_path / "cls").mkdir()
    assert problems(tmp_path, recipe, "finetune") == {}
    endless = f"{recipe}num_epochs = {10**12}\n"
    assert problems(tmp_path, endless, "finetune").keys() == {"epochs-without-end"}
