"""What pre-training would fail on, before it runs."""

from support.recipe_checks import problems

START = "[pretrain]\nschedule = { warmup_steps = 10 }\n"


def test_a_warm_up_longer_than_the_training_is_doubtful(tmp_path):
    recipe = "[pretrain]\nnum_steps = 100\nschedule = { warmup_steps = 100 }\n"
    line = problems(tmp_path, recipe, "pretrain")["warmup-too-long"]
    assert line.startswith("warning[")
    assert line.endswith("fix: --set pretrain.schedule.warmup_steps=10")
    assert problems(tmp_path, recipe.replace("= 100\ns", "= 101\ns"), "pretrain") == {}


def test_a_start_that_is_not_there(tmp_path):
    taught = START + f'ensemble = {{ teachers = ["{tmp_path}/none"] }}\n'
    assert problems(tmp_path, taught, "pretrain").keys() == {"start-missing"}
    recipe = START + f'start_from = "{tmp_path}/none"\n'
    assert problems(tmp_path, recipe, "pretrain").keys() == {"start-missing"}
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "config.json").write_text("{}")
    assert problems(tmp_path, recipe, "pretrain") == {}


def test_steps_that_cannot_end(tmp_path):
    recipe = "[pretrain]\nnum_steps = 10_000_000_001\n"
    assert problems(tmp_path, recipe, "pretrain").keys() == {"steps-without-end"}
    assert problems(tmp_path, recipe.replace("_001", "_000"), "pretrain") == {}


def test_shuffled_documents_replace_a_best_fit_packing(tmp_path):
    recipe = START + 'shuffle_documents = true\n[pack]\norder = "best-fit"\n'
    assert "packing-replaced" in problems(tmp_path, recipe, "pretrain")
    assert "packing-replaced" not in problems(
        tmp_path, recipe.replace("best-fit", "shuffled"), "pretrain"
    )


def test_phases_and_the_training(tmp_path):
    recipe = START + "shuffle_documents = true\ndecay_in_last_phase = true\n"
    assert problems(tmp_path, f"{recipe}[pack]\n", "pretrain").keys() == {"no-last-phase"}
    phases = "[pack]\nnum_tokens = 9\nphases = [{ share = 1.0, weights = { a = 1 } }]\n"
    assert problems(tmp_path, recipe + phases, "pretrain").keys() == {"shuffle-replaced"}


def test_libraries_that_are_not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr("teenytinyllama.stages.pretrain.checks.find_spec", lambda name: None)
    recipe = START + (
        'attention = "flash-attn"\nisolate_documents = true\ntrackers = ["wandb"]\n'
        'optimizer = { kind = "adamw-8bit" }\n'
    )
    assert problems(tmp_path, recipe, "pretrain").keys() == {
        "extra-missing",
        "flash-attn-isolates-nothing",
        "flash-attn-missing",
        "tracker-missing",
    }
