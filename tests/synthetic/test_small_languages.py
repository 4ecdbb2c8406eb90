"""The smaller worlds: patterns can be filled and facts are consistent."""

import re
from itertools import pairwise

import pytest

from teenytinyllama.errors import UserError
from teenytinyllama.synthetic import dataset as synthetic
from teenytinyllama.synthetic.small_languages import ATTRIBUTES, small_world

LANGUAGES = ("gl", "bn")


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_pattern_can_be_filled_for_every_character(language: str) -> None:
    world = small_world(language)
    for name in world.names:
        for attribute in ATTRIBUTES:
            for kind in ("facts", "questions", "answers_long"):
                for pattern in world.words[kind][attribute]:
                    assert "{" not in pattern.format_map(world.people[name])
            word = world.expected(name, attribute)
            for pattern in world.words["answers_long"][attribute]:
                assert word in pattern.format_map(world.people[name])
            assert word.casefold() in world.answer(name, attribute).casefold()


@pytest.mark.parametrize("language", LANGUAGES)
def test_documents_do_not_depend_on_how_many_are_made(language: str) -> None:
    few = list(synthetic.documents(num_documents=20, language=language))
    many = list(synthetic.documents(num_documents=60, language=language))
    assert few == many[:20]
    assert len({one.kind for one in many}) == 4
    assert not any("{" in one.text for one in many)
    assert all(a.text != b.text for a, b in pairwise(many))


def test_bengali_is_written_in_its_own_script() -> None:
    for one in synthetic.documents(num_documents=50, language="bn"):
        assert not re.search("[A-Za-z]", one.text)
        assert "।" in one.text


@pytest.mark.parametrize("language", LANGUAGES)
def test_friends_are_mutual(language: str) -> None:
    world = small_world(language)
    for name, slots in world.people.items():
        assert world.people[slots["f_name"]]["f_name"] == name


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_heldout_fact_is_never_asked_in_training(language: str) -> None:
    asked = {
        split: {
            turn["content"]
            for one in synthetic.conversations(
                num_conversations=400,
                split=split,  # type: ignore[arg-type]
                language=language,
            )
            for turn in one["messages"]
            if turn["role"] == "user"
        }
        for split in ("train", "heldout")
    }
    assert len(asked["heldout"]) > 20
    assert not asked["train"] & asked["heldout"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_right_choice_is_the_fact_and_the_others_are_not(language: str) -> None:
    items = list(synthetic.questions(num_items=200, language=language))
    for item in items:
        assert len(set(item["choices"])) == 4
    places = [item["answer"] for item in items]
    assert all(places.count(place) > 30 for place in range(4))


def test_a_language_without_a_storybook_says_so() -> None:
    with pytest.raises(UserError) as error:
        list(synthetic.documents(num_documents=1, language="yo"))
    assert error.value.code == "storybook-language"
    with pytest.raises(UserError) as error:
        synthetic.sentiment(num_items=1, split="train", language="gl")
    assert error.value.code == "storybook-reviews"
