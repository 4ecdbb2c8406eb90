"""What the tokenizer stage would fail on, known from the recipe and the files that it names."""

from __future__ import annotations

from collections.abc import Iterator

from teenytinyllama.artifacts.conversations import SPECIAL_TOKENS
from teenytinyllama.errors import UserError
from teenytinyllama.languages import letters_of
from teenytinyllama.modeling.model_size import padded_vocab_size
from teenytinyllama.regular_files import user_path
from teenytinyllama.settings.data_preparation import TokenizerSettings
from teenytinyllama.settings.recipe import Recipe

NUM_BYTE_TOKENS = 256


def check(settings: TokenizerSettings, recipe: Recipe) -> Iterator[UserError]:
    """A vocabulary that its letters alone fill, files that are not there."""
    letters = settings.required_letters or letters_of(recipe.language)
    needed = NUM_BYTE_TOKENS + len(SPECIAL_TOKENS) + len(set(letters) | {" "})
    if settings.model != "byte-level" and settings.vocab_size < needed:
        yield UserError(
            "vocabulary-too-small",
            "tokenizer.vocab_size",
            f"{settings.vocab_size:,} tokens, and special tokens, bytes and the "
            f"{len(set(letters)):,} required letters alone are {needed:,}",
            f"--set tokenizer.vocab_size={padded_vocab_size(needed + needed // 2)}",
        )
    if settings.measure_text and not user_path(settings.measure_text).is_file():
        what = f'no file at "{settings.measure_text}"'
        yield UserError("measure-text", "tokenizer.measure_text", what, "give a UTF-8 text file")
    for name in settings.measure_against:
        if not user_path(name).exists():
            yield UserError(
                "measure-missing",
                "tokenizer.measure_against",
                f"{name} does not exist",
                "give a folder with tokenizer.json, or a .model file",
            )
