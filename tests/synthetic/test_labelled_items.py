"""Labelled sets are balanced, split cleanly and not solved by surface features."""

import re
from collections import Counter

import pytest

from teenytinyllama.synthetic import dataset as synthetic
from teenytinyllama.synthetic.grammar import lexicon


def test_sentiment_is_balanced_and_its_splits_are_disjoint() -> None:
    texts = {}
    for split in ("train", "validation", "test"):
        items = list(synthetic.sentiment(num_items=1000, split=split))
        assert Counter(item["label"] for item in items) == {"positivo": 500, "negativo": 500}
        texts[split] = {item["text"] for item in items}
        assert len(texts[split]) > 900
    assert not texts["train"] & texts["validation"]
    assert not texts["train"] & texts["test"]
    assert not texts["validation"] & texts["test"]


def test_sentiment_test_sentences_are_not_in_the_documents() -> None:
    quoted = " ".join(d.text for d in synthetic.documents(num_documents=2000))
    neutral = ("Fomos", "Fui", "Cheguei", "Era a", "Fiquei lá", "Encontrei")
    for item in synthetic.sentiment(num_items=500, split="test"):
        for sentence in re.findall(r"[^.!]+[.!]", item["text"]):
            is_neutral = sentence.strip().startswith(neutral) or re.search(
                r"foi comigo|falado disso", sentence
            )
            assert is_neutral or sentence.strip() not in quoted, sentence


def test_sentiment_needs_more_than_one_adjective() -> None:
    """The adjectives alone, without negation and concession, are far from enough."""
    good = {word[:-1] for word in lexicon()["sentiment"]["good"]}
    right = 0
    for item in synthetic.sentiment(num_items=1000, split="train"):
        says_good = any(word[:-1] in good for word in re.findall(r"\w+", item["text"].lower()))
        right += says_good == (item["label"] == "positivo")
    assert right / 1000 < 0.8


def test_surface_features_do_not_give_away_the_right_choice() -> None:
    items = list(synthetic.questions(num_items=4000))
    positions = Counter(item["answer"] for item in items)
    assert all(900 <= count <= 1100 for count in positions.values())
    answers = Counter(item["choices"][item["answer"]] for item in items)
    scores = {"longest": 0, "shortest": 0, "commonest": 0}
    for item in items:
        choices, right = item["choices"], item["choices"][item["answer"]]
        assert len(set(choices)) == 4
        scores["longest"] += right == max(choices, key=len)
        scores["shortest"] += right == min(choices, key=len)
        scores["commonest"] += right == max(choices, key=lambda choice: answers[choice])
    # Three standard errors of a fair coin of one in four, 4,000 times: 2.1 points.
    assert scores["longest"] / 4000 < 0.275
    assert scores["shortest"] / 4000 < 0.275
    # The counts include the item itself and the world deals values unevenly by one: up to 1/3.
    assert scores["commonest"] / 4000 < 0.36


def test_half_of_the_questions_have_phrasings_new_to_documents() -> None:
    asked = set()
    for document in synthetic.documents(num_documents=3000):
        if document.kind in ("questions", "dialogue"):
            asked |= set(re.findall(r"Pergunta: ([^\n]+)", document.text))
    items = list(synthetic.questions(num_items=1000))
    new = sum(item["question"].split("\n")[0][10:] not in asked for item in items)
    assert 0.45 <= new / 1000 <= 0.65


def test_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one of train, validation, test"):
        next(synthetic.sentiment(num_items=1, split="dev"))
