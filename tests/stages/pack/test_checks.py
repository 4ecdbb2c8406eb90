"""What is doubtful about packing, before it runs."""

from support.recipe_checks import problems

from teenytinyllama.errors import RecipeWarning


def test_rows_that_the_training_does_not_read(tmp_path):
    recipe = (
        '[pack]\norder = "best-fit"\nsequence_length = 512\n'
        "[pretrain]\nsequence_length = 1024\ntokens_per_step = 2048\n"
    )
    found = problems(tmp_path, recipe, "pack")
    assert found["rows-differ"].startswith("warning[rows-differ] pack.sequence_length - ")
    assert found["rows-differ"].endswith("fix: --set pack.sequence_length=1024")
    assert problems(tmp_path, recipe.replace("= 512", "= 1024"), "pack") == {}
    assert str(RecipeWarning("a", "b", "c", "d")) == "warning[a] b - c - fix: d"


PHASES = (
    "[pack]\nnum_tokens = 8_000\n"
    '[[pack.phases]]\nshare = 0.999\nweights = { "storybook" = 1 }\n'
    '[[pack.phases]]\nshare = 0.001\nweights = { "storybook" = 1 }\n'
    "[pretrain]\nsequence_length = 1000\ntokens_per_step = 1000\nnum_steps = 10\n"
)


def test_phases_that_do_not_fit_the_training(tmp_path):
    found = problems(tmp_path, PHASES, "pack")
    assert found["phases-too-short"].endswith("fix: --set pack.num_tokens=10000")
    assert "pack.phases.2.share = 0.001" in found["phase-empty"]
    good = PHASES.replace("8_000", "10_000").replace("0.999", "0.9").replace("0.001", "0.1")
    assert problems(tmp_path, good, "pack") == {}
