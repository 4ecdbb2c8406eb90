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
