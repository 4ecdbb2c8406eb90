"""What is doubtful about how documents will be packed, known from the recipe."""

from __future__ import annotations

from collections.abc import Iterator

from teenytinyllama.errors import RecipeWarning, UserError
from teenytinyllama.settings.data_preparation import PackSettings
from teenytinyllama.settings.recipe import Recipe


def check(settings: PackSettings, recipe: Recipe) -> Iterator[UserError]:
    """Rows of another length than the training reads."""
    pretrain = recipe.pretrain
    if settings.order != "best-fit" or pretrain is None:
        return
    if settings.sequence_length != pretrain.sequence_length:
        yield RecipeWarning(
            "rows-differ",
            "pack.sequence_length",
            f"documents are fitted to rows of {settings.sequence_length:,} tokens, the training "
            f"reads rows of {pretrain.sequence_length:,}",
            f"--set pack.sequence_length={pretrain.sequence_length}",
        )
