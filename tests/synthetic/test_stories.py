"""Documents are correct Portuguese, depend on the seed alone and agree with the world."""

import re
from collections import Counter
from hashlib import sha256

import pytest

from teenytinyllama.synthetic import dataset as synthetic
from teenytinyllama.synthetic.grammar import lexicon
from teenytinyllama.synthetic.phrasing import expected_word
from teenytinyllama.synthetic.stories import KINDS, StoryDocument
from teenytinyllama.synthetic.word_forms import _noun_genders, word_forms
from teenytinyllama.synthetic.world import ATTRIBUTES, NUM_CHARACTERS, world

NUM_SCANNED = 3000


@pytest.fixture(scope="module")
def documents() -> list[StoryDocument]:
    return list(synthetic.documents(num_documents=NUM_SCANNED))


@pytest.fixture(scope="module")
def text(documents: list[StoryDocument]) -> str:
    return "\n\n".join(document.text for document in documents)


def found(pattern: str, text: str) -> list[str]:
    """Return the offending places with what surrounds them, for the message of a failing test."""
    return [text[max(0, m.start() - 30) : m.end() + 30] for m in re.finditer(pattern, text)][:5]


@pytest.mark.parametrize(
    ("error", "pattern"),
    [
        ("uncontracted de or em", r"\b([Dd]e|[Ee]m) (os?|as?|eles?|elas?) "),
        ("uncontracted por", r"\b[Pp]or (os?|as?) "),
        ("uncontracted a + o", r"\b[Aa] (os?|as?) "),
        ("doubled word", r"\b(\w+) \1\b"),
        ("double space", r"  | \n|\n "),
        ("space before punctuation", r" [.,;:!?]"),
        ("doubled punctuation", r"[.,;:!?]{2}|”\."),
        ("sentence starts lower-case", r"[.!?]”? [a-zà-ú]|^[a-zà-ú]|\n[a-zà-ú]"),
        ("line without final punctuation", r"[^.!?:”\n](\n\n|\Z)"),
        ("unfilled slot", r"[{}_@]"),
        ("feminine article, masculine ending", r"\b[Uu]ma? \w+ chamad[^oa]"),
    ],
)
def test_no_document_has_this_error(error: str, pattern: str, text: str) -> None:
    assert found(pattern, text) == [], error


def test_articles_agree_with_their_nouns(text: str) -> None:
    wrong = []
    articles = {"m": "o|um|do|no|ao|pelo|num|seu", "f": "a|uma|da|na|à|pela|numa|sua"}
    pairs = Counter(re.findall(r"\b([a-zà-ú]+) ([\w-]+)", text.lower()))
    for noun, gender in _noun_genders().items():
        other = articles["f" if gender == "m" else "m"].split("|")
        head = noun.lower().partition(" ")[0]
        wrong += [f"{word} {head}" for word in other if pairs[word, head]]
    assert wrong == []


def test_names_agree_with_their_species(text: str) -> None:
    for character in world().characters:
        article = "o" if character.gender == "m" else "a"
        other = "a" if article == "o" else "o"
        assert found(rf"\b{other} {character.species} {character.name}\b", text) == []
        assert (
            found(rf"\b(?!{character.species}\b)\w+o {character.name} (é|era) \w+a\b", text) == []
        )


def test_documents_are_a_pure_function_of_the_seed() -> None:
    def digest(count: int, keep: int, seed: int = 0) -> str:
        texts = [d.text for d in synthetic.documents(seed=seed, num_documents=count)][:keep]
        return sha256("\0".join(texts).encode()).hexdigest()

    assert digest(200, 200) == digest(200, 200)
    assert digest(200, 50) == digest(50, 50), "a longer run must begin with the shorter one"
    assert digest(50, 50, seed=1) != digest(50, 50)


def test_ids_kinds_and_sizes(documents: list[StoryDocument]) -> None:
    assert documents[1].id == "storybook-0000001"
    assert {document.kind for document in documents} == set(KINDS)
    mean_bytes = sum(len(document.text.encode()) for document in documents) / len(documents)
    assert 500 <= mean_bytes <= 700


def test_no_two_documents_are_alike(
    documents: list[StoryDocument],
) -> None:
    assert len({document.text for document in documents}) == len(documents)
    grams = []
    for document in documents[:600]:
        words = document.text.split()
        grams.append({tuple(words[i : i + 5]) for i in range(len(words) - 4)})
    holders: dict[tuple[str, ...], list[int]] = {}
    for index, own in enumerate(grams):
        shared = Counter(other for gram in own for other in holders.get(gram, ()))
        for other, count in shared.items():
            assert count <= 0.8 * min(len(own), len(grams[other])), (documents[index].text, other)
        for gram in own:
            holders.setdefault(gram, []).append(index)


def test_every_fact_is_stated_in_many_documents(
    documents: list[StoryDocument],
) -> None:
    forms = word_forms(0, NUM_CHARACTERS)
    texts = [document.text for document in documents]
    by_name = {
        one.name: [text for text in texts if re.search(rf"\b{one.name}\b", text)]
        for one in forms.characters
    }
    for character in forms.characters:
        for attribute in ATTRIBUTES:
            word = expected_word(forms, character.name, attribute)
            stated = sum(word in text for text in by_name[character.name])
            assert stated >= 100, (character.name, attribute, stated)


def test_statements_of_a_home_never_contradict_the_world(text: str) -> None:
    homes = {one.name: one.home for one in world().characters}
    stated = re.findall(r"(\w+) (?:mora|morava|vive|vivia) n[oa] (\w+)", text)
    named = [(name, home) for name, home in stated if name in homes]
    assert len(named) > 300
    assert [pair for pair in named if homes[pair[0]] != pair[1]] == []


def test_no_list_of_the_lexicon_is_empty() -> None:
    """An empty list would only show as a rare crash."""

    def empty_lists(value: object, path: str) -> list[str]:
        if isinstance(value, dict):
            return [p for key, v in value.items() for p in empty_lists(v, f"{path}.{key}")]
        if isinstance(value, list):
            return [path] * (not value) + [p for v in value for p in empty_lists(v, path)]
        return []

    assert empty_lists(lexicon(), "lexicon") == []
