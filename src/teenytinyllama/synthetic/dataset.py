"""The storybook by language: Portuguese in full, the others as far as their data reaches."""

from collections.abc import Iterator

from teenytinyllama.errors import UserError
from teenytinyllama.synthetic import dialogues as chats
from teenytinyllama.synthetic import labelled_items, small_languages, stories
from teenytinyllama.synthetic.dialogues import Conversation, ConversationSplit
from teenytinyllama.synthetic.labelled_items import QuestionItem, SentimentItem, Split
from teenytinyllama.synthetic.stories import StoryDocument
from teenytinyllama.synthetic.world import NUM_CHARACTERS

FULL = "pt"
"""The language whose storybook has a grammar of its own, reviews and instructions."""


def documents(
    *,
    seed: int = 0,
    num_documents: int,
    num_characters: int = NUM_CHARACTERS,
    language: str = FULL,
) -> Iterator[StoryDocument]:
    """Yield documents about the world of this seed; the number of characters is Portuguese only.

    Raises UserError for a language without a storybook.
    """
    if language == FULL:
        return stories.documents(
            seed=seed, num_documents=num_documents, num_characters=num_characters
        )
    return small_languages.documents(language=language, seed=seed, num_documents=num_documents)


def conversations(
    *,
    seed: int = 0,
    num_conversations: int,
    split: ConversationSplit,
    num_characters: int = NUM_CHARACTERS,
    language: str = FULL,
) -> Iterator[Conversation]:
    """Yield conversations about it; `heldout` asks for facts that `train` never asks for."""
    if language == FULL:
        return chats.conversations(
            seed=seed,
            num_conversations=num_conversations,
            split=split,
            num_characters=num_characters,
        )
    return small_languages.conversations(
        language=language, seed=seed, num_conversations=num_conversations, split=split
    )


def questions(
    *, seed: int = 0, num_items: int, num_characters: int = NUM_CHARACTERS, language: str = FULL
) -> Iterator[QuestionItem]:
    """Yield multiple-choice questions about it; chance is one in four."""
    if language == FULL:
        return labelled_items.questions(
            seed=seed, num_items=num_items, num_characters=num_characters
        )
    return small_languages.questions(language=language, seed=seed, num_items=num_items)


def sentiment(
    *,
    seed: int = 0,
    num_items: int,
    split: Split,
    num_characters: int = NUM_CHARACTERS,
    language: str = FULL,
) -> Iterator[SentimentItem]:
    """Yield labelled reviews. Raises UserError for any language but Portuguese."""
    if language != FULL:
        raise UserError(
            "storybook-reviews",
            "finetune.tasks",
            f'the storybook of the language "{language}" has no labelled reviews',
            'give labelled text of your own: kind = "files"',
        )
    return labelled_items.sentiment(
        seed=seed, num_items=num_items, split=split, num_characters=num_characters
    )
