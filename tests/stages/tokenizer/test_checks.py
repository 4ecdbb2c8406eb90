"""What the tokenizer stage would fail on, before it runs."""

from support.recipe_checks import problems


def test_a_vocabulary_must_have_room_for_its_letters(tmp_path):
    letters = "".join(chr(0x4E00 + place) for place in range(600))  # Chinese
    recipe = f'language = "zh"\n[tokenizer]\nvocab_size = 512\nrequired_letters = "{letters}"\n'
    line = problems(tmp_path, recipe, "tokenizer")["vocabulary-too-small"]
    assert "600 required letters" in line
    assert line.endswith("fix: --set tokenizer.vocab_size=1344")
    assert problems(tmp_path, recipe.replace("= 512", "= 1344"), "tokenizer") == {}
    byte_level = recipe + 'model = "byte-level"\n'
    assert problems(tmp_path, byte_level, "tokenizer") == {}  # letters are bytes there


def test_files_that_are_not_there_are_named(tmp_path):
    recipe = '[tokenizer]\nmeasure_text = "none.txt"\nmeasure_against = ["none"]\n'
    assert problems(tmp_path, recipe, "tokenizer").keys() == {"measure-text", "measure-missing"}
