"""Facts are dealt evenly to the characters of a world."""

from collections import Counter

import pytest

from teenytinyllama.synthetic.world import world


def test_values_are_dealt_evenly_and_friendship_is_mutual() -> None:
    for num_characters in (10, 40, 41, 60):
        made = world(seed=3, num_characters=num_characters)
        assert len({one.name for one in made.characters}) == num_characters
        for one in made.characters:
            assert one.friend != one.name
            if num_characters % 2 == 0:
                assert made.character(one.friend).friend == one.name
        counts = Counter(one.home for one in made.characters)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_too_many_characters_are_an_error() -> None:
    with pytest.raises(ValueError, match="10 to 60 characters"):
        world(num_characters=61)
