"""Everything that would stop a run is said at once, one line each, before it starts."""

from pathlib import Path

import pytest
from support.command_line import log_of

from teenytinyllama.errors import SeveralErrors, UserError
from teenytinyllama.pipeline import recipe_check
from teenytinyllama.pipeline.recipe_check import check_recipe
from teenytinyllama.pipeline.registry import BY_NAME, STAGES
from teenytinyllama.settings.recipe import load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
BAD = """name = "bad"
[corpus]
sources = [{ kind = "files", path = "none" }]
[tokenizer]
measure_text = "none.txt"
[pack]
[pretrain]
num_steps = 10
"""


@pytest.fixture
def bad(tmp_path):
    (tmp_path / "bad.toml").write_text(BAD)
    return load_recipe(tmp_path / "bad.toml")


def test_all_problems_at_once_and_one_as_itself(bad, tmp_path, capsys):
    with pytest.raises(SeveralErrors) as several:
        check_recipe(bad, STAGES, tmp_path)
    assert [one.code for one in several.value.errors] == ["source-empty", "measure-text"]
    assert str(several.value).count("\n") == 1
    assert "warning[warmup-too-long] pretrain" in capsys.readouterr().err
    with pytest.raises(UserError) as one:
        check_recipe(bad, [BY_NAME["corpus"]], tmp_path)
    assert one.value.code == "source-empty"


def test_a_stage_that_others_read_and_nobody_makes(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text(BAD.replace("[pack]\n", "").replace("= 10", "= 1000"))
    recipe = load_recipe(path)
    with pytest.raises(UserError) as error:
        check_recipe(recipe, [BY_NAME["pretrain"]], tmp_path)
    assert error.value.fix == "add [pack] to the recipe"
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "manifest.json").write_text("{}")
    check_recipe(recipe, [BY_NAME["pretrain"]], tmp_path)


def test_what_memory_and_disk_cannot_hold(bad, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe_check, "available_memory_bytes", lambda: 10**9)
    monkeypatch.setattr(recipe_check, "free_disk_bytes", lambda folder: 4 * 10**9)
    monkeypatch.setattr(recipe_check, "has_gpu", lambda: False)
    with pytest.raises(SeveralErrors) as error:
        check_recipe(bad, [BY_NAME["pretrain"]], tmp_path)
    assert [one.what for one in error.value.errors] == [
        "checkpoints and model need 6.5 GB, 4 GB are free",
        "162,417,408 parameters take 1.3 GB of memory while they train, 1 GB are free",
    ]
    monkeypatch.setattr(recipe_check, "available_memory_bytes", lambda: 10**10)
    monkeypatch.setattr(recipe_check, "bytes_in", lambda folder: 3 * 10**9)
    check_recipe(bad, [BY_NAME["pretrain"]], tmp_path)  # it goes on from its checkpoints
    check_recipe(bad, [BY_NAME["pack"]], tmp_path)  # nothing is trained


def test_the_command(tmp_path):
    (tmp_path / "bad.toml").write_text(BAD)
    said = log_of("check", tmp_path / "bad.toml", code=2).splitlines()
    assert [line[: line.index("]") + 1] for line in said] == [
        "warning[warmup-too-long]",
        "error[source-empty]",
        "error[measure-text]",
    ]
    good = RECIPES / "quickstart.toml"
    assert log_of("check", good).endswith(f"nothing found that would stop it. Next: ttl run {good}")
