"""Documents, conversations, questions and reviews of the invented world, by language.

Portuguese has all of them; other languages have no reviews and no instructions.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from teenytinyllama.errors import UserError
from teenytinyllama.synthetic import dialogues as chats
from teenytinyllama.synthetic import labelled_items, small_languages, stories
from teenytinyllama.synthetic.dialogues import ConversationSplit, SyntheticConversation
from teenytinyllama.synthetic.labelled_items import LabelledSplit, QuestionItem, SentimentItem
from teenytinyllama.synthetic.stories import StoryDocument

LICENSE = "Apache-2.0"
FULL_LANGUAGE = "pt"
"""The language with a grammar in code, reviews and instructions."""
NUM_CLEAN_DOCUMENTS = 200


def documents(
    *, seed: int = 0, num_documents: int, language: str = FULL_LANGUAGE
) -> Iterator[StoryDocument]:
    """Yield documents about the world of this seed.

    Raises UserError for a language without a storybook.
    """
    if language == FULL_LANGUAGE:
        return stories.documents(seed=seed, num_documents=num_documents)
    return small_languages.documents(language=language, seed=seed, num_documents=num_documents)


def conversations(
    *,
    seed: int = 0,
    num_conversations: int,
    split: ConversationSplit,
    language: str = FULL_LANGUAGE,
) -> Iterator[SyntheticConversation]:
    """Yield conversations about the world; `heldout` asks for facts that `train` never does."""
    if language == FULL_LANGUAGE:
        return chats.conversations(seed=seed, num_conversations=num_conversations, split=split)
    return small_languages.conversations(
        language=language, seed=seed, num_conversations=num_conversations, split=split
    )


def questions(
    *, seed: int = 0, num_items: int, language: str = FULL_LANGUAGE
) -> Iterator[QuestionItem]:
    """Yield multiple-choice questions about the world; chance is one in four."""
    if language == FULL_LANGUAGE:
        return labelled_items.questions(seed=seed, num_items=num_items)
    return small_languages.questions(language=language, seed=seed, num_items=num_items)


def sentiment(
    *, seed: int = 0, num_items: int, split: LabelledSplit, language: str = FULL_LANGUAGE
) -> Iterator[SentimentItem]:
    """Yield labelled reviews. Raises UserError for any language but Portuguese."""
    if language != FULL_LANGUAGE:
        raise UserError(
            "storybook-reviews",
            "finetune.tasks",
            f'the storybook of the language "{language}" has no labelled reviews',
            'give labelled text of your own: kind = "files"',
        )
    return labelled_items.sentiment(seed=seed, num_items=num_items, split=split)


def write_files(
    folder: Path, *, language: str, num_documents: int, num_conversations: int, seed: int
) -> None:
    """Write text, chat and a clean sample as files for `ttl new` and `ttl run`.

    `text/storybook.jsonl`, `chat/storybook.jsonl` and `clean.txt`, the first of the texts.
    """
    made = [
        {"id": one.id, "text": one.text, "license": LICENSE}
        for one in documents(seed=seed, num_documents=num_documents, language=language)
    ]
    chats = conversations(
        seed=seed, num_conversations=num_conversations, split="train", language=language
    )
    _write_lines(folder / "text", made)
    _write_lines(folder / "chat", ({"messages": one["messages"]} for one in chats))
    clean = "\n\n".join(one["text"] for one in made[:NUM_CLEAN_DOCUMENTS])
    (folder / "clean.txt").write_text(clean, encoding="utf-8")


def _write_lines(folder: Path, items: Iterable[Mapping[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(item, ensure_ascii=False) + "\n" for item in items)
    (folder / "storybook.jsonl").write_text("".join(lines), encoding="utf-8")
