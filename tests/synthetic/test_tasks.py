"""The labelled sets: balanced, split cleanly, and not to be guessed from the surface."""

import re
from collections import Counter
from itertools import islice

import pytest

from teenytinyllama import synthetic
from teenytinyllama.synthetic.dialogues import is_heldout
from teenytinyllama.synthetic.lexicon import lexicon


def _as_regex(pattern: str) -> str:
    friend = re.sub(r"\{o_(best|great)_friend\}", "[oa] (melhor|grande) amig[oa]", pattern)
    return re.sub(r"\{\w+\}", ".{1,40}?", friend).replace("?", r"\?").replace(r"}\?", "}?")


def facts_asked(split: str, count: int) -> set[tuple[str, str]]:
    """Return the (name, attribute) pairs that the user asks for, found by the question patterns."""
    names = "|".join(one.name for one in synthetic.world().characters)
    patterns = [
        (attribute, re.compile(_as_regex(p), re.IGNORECASE))
        for attribute, questions in lexicon()["questions"].items()
        for p in questions
    ]
    pairs = set()
    for item in synthetic.conversations(num_conversations=count, split=split):
        for message in item["messages"]:
            asked = message["content"]
            if message["role"] == "user" and "?" in asked and (name := re.search(names, asked)):
                pairs |= {(name[0], a) for a, pattern in patterns if pattern.search(asked)}
    return pairs


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


def test_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one of train, validation, test"):
        next(synthetic.sentiment(num_items=1, split="dev"))
    with pytest.raises(ValueError, match="expected train or heldout"):
        next(synthetic.conversations(num_conversations=1, split="test"))


def test_conversations_are_turns_whose_last_answer_is_expected() -> None:
    for split in ("train", "heldout"):
        for item in synthetic.conversations(num_conversations=800, split=split):
            roles = [message["role"] for message in item["messages"]]
            turns = roles[1:] if roles[0] == "system" else roles
            assert turns == ["user", "assistant"] * (len(turns) // 2)
            assert 1 <= len(turns) // 2 <= 3
            answer = item["messages"][-1]["content"]
            assert any(word.lower() in answer.lower() for word in item["expected"]), item
            assert answer[-1] in ".!?"
            assert answer[0].isupper()


def test_heldout_conversations_ask_for_facts_that_no_training_conversation_asks() -> None:
    train, heldout = facts_asked("train", 1500), facts_asked("heldout", 500)
    assert not train & heldout
    pairs = [
        is_heldout(0, one, attribute)
        for one in synthetic.world().characters
        for attribute in synthetic.ATTRIBUTES
    ]
    assert 0.12 <= sum(pairs) / len(pairs) <= 0.22
    assert len(heldout) >= 0.95 * sum(pairs)


def test_conversations_have_a_stable_prefix() -> None:
    longer = synthetic.conversations(num_conversations=100, split="train")
    assert list(islice(longer, 20)) == list(
        synthetic.conversations(num_conversations=20, split="train")
    )


def test_questions_have_one_right_answer_that_the_surface_does_not_give_away() -> None:
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


def test_half_of_the_questions_are_phrased_as_no_document_phrases_them() -> None:
    asked = set()
    for document in synthetic.documents(num_documents=3000):
        if document.kind in ("questions", "dialogue"):
            asked |= set(re.findall(r"Pergunta: ([^\n]+)", document.text))
    items = list(synthetic.questions(num_items=1000))
    new = sum(item["question"].split("\n")[0][10:] not in asked for item in items)
    assert 0.45 <= new / 1000 <= 0.65
