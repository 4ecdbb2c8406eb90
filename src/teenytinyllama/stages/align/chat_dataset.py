"""Chat data: read, check, quarantine, encode and split conversations, and count them.

`conversations_read = conversations_train + conversations_heldout + conversations_quarantined`,
always. Broken ones are in `quarantine.jsonl` with place and reason, the training split is in
`train.jsonl.zst` and the held-out one in `heldout.jsonl.zst`, as truncated to fit. A search for
training data matches reads the training split only.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import zstandard

from teenytinyllama.artifacts.conversation_layouts import (
    ConversationError,
    is_learnt,
    is_preference,
    read_conversation,
    unused_fields,
)
from teenytinyllama.artifacts.conversations import (
    SPECIAL_TOKENS,
    Conversation,
    Message,
    problem_with,
)
from teenytinyllama.artifacts.manifest import write_atomically
from teenytinyllama.artifacts.records import Record, hub_records, read_records
from teenytinyllama.artifacts.tokenizer import TextEncoder
from teenytinyllama.errors import UserError
from teenytinyllama.languages.personal_data import PersonalData
from teenytinyllama.settings.datasets import Source, with_presets
from teenytinyllama.settings.post_training import AlignSettings
from teenytinyllama.stages.align.conversation_packing import Rendered
from teenytinyllama.stages.align.heldout_split import MIN_HELDOUT, candidate, choose_heldout
from teenytinyllama.synthetic import dataset as synthetic

logger = logging.getLogger(__name__)


QUARANTINE_NAME = "quarantine.jsonl"
TRAIN_NAME, HELDOUT_NAME = "train.jsonl.zst", "heldout.jsonl.zst"
TOO_LONG = "longer than a row, even its first answer"
TOO_LONG_PAIR = "longer than a row"


@dataclass
class ChatData:
    """All conversations of one run, encoded and split."""

    train: list[Rendered] = field(default_factory=list)
    heldout: list[Rendered] = field(default_factory=list)
    train_messages: list[Conversation] = field(default_factory=list)
    heldout_messages: list[Conversation] = field(default_factory=list)
    train_answers: set[str] = field(default_factory=set)
    """Answers in the training split, to see which ones a model only repeats."""
    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    unused_fields: Counter[str] = field(default_factory=Counter)
    """Records with text in a field that no layout has, by field."""
    personal: Counter[str] = field(default_factory=Counter)
    """Conversations with personal data or secrets, by kind."""
    quarantine: list[dict[str, Any]] = field(default_factory=list)

    def fingerprint(self) -> str:
        """A hash of all ids and masks trained on: a checkpoint must have the same."""
        digest = hashlib.sha256()
        for one in self.train:
            digest.update(repr((list(one.ids), list(one.mask))).encode())
        return digest.hexdigest()[:16]


def read_chat_data(
    settings: AlignSettings, encoder: TextEncoder, max_tokens: int, language: str = "pt"
) -> ChatData:
    """Read all sources; a storybook is in `language`.

    A conversation has at most `max_tokens`, its last EOS included. Raises UserError for a source
    without conversations, with preferences in place of conversations, or with more than the
    allowed share of broken ones.
    """
    data, personal_data = ChatData(), PersonalData(language)
    read: list[_Read] = []
    for index, source in enumerate(with_presets(settings.sources, language, "align.sources")):
        where = f"align.sources.{index}"
        before, quarantined_before = data.counts["conversations_read"], len(data.quarantine)
        for record in records_of(source, where, language):
            if record.error or source.selects(record.fields):
                messages = _usable(record, source, data, encoder, max_tokens)
                if messages:
                    data.personal.update(personal_data.kinds_in(_joined(messages)))
                    rendered = Rendered(*encoder.render_with_mask(messages))
                    _check(rendered, encoder, record)
                    read.append(_Read(index, messages, rendered))
            else:
                data.counts["conversations_not_selected"] += 1
        num_read = data.counts["conversations_read"] - before
        if num_read == 0:
            fix = "check its path" + (" and `only`" if source.only else "")
            raise UserError("source-empty", where, "has no conversation", fix)
        broken = data.quarantine[quarantined_before:]
        check_share(broken, where, num_read, settings.max_quarantined_fraction)
    _split(data, read, settings.heldout_fraction)
    _warn(data)
    if not data.train or not data.heldout:
        raise UserError(
            "chat-data-empty",
            "align.sources",
            f"{len(data.train)} training and {len(data.heldout)} held-out conversations remain of "
            f"{data.counts['conversations_read']} ({data.reasons[TOO_LONG]} {TOO_LONG}), and each "
            "split needs one",
            "raise align.sequence_length" if data.reasons[TOO_LONG] else "give more conversations",
        )
    return data


class _Read(NamedTuple):
    """A conversation as it was read, before the split."""

    source: int
    messages: Conversation
    rendered: Rendered


def _split(data: ChatData, read: Sequence[_Read], fraction: float) -> None:
    """Fill the training and the held-out split, in reading order."""
    chosen = choose_heldout(
        [candidate(one.source, one.messages[:-1], one.messages[-1]) for one in read], fraction
    )
    for one, is_heldout in zip(read, chosen, strict=True):
        if is_heldout:
            data.heldout.append(one.rendered)
            data.heldout_messages.append(one.messages)
        else:
            data.train.append(one.rendered)
            data.train_messages.append(one.messages)
            data.train_answers |= {m["content"] for m in one.messages if is_learnt(m)}
    data.counts["conversations_train"] = len(data.train)
    data.counts["conversations_heldout"] = len(data.heldout)
    asked = {_questions(one) for one in data.train_messages}
    data.counts["heldout_questions_in_train"] = sum(
        _questions(one) in asked for one in data.heldout_messages
    )


def _questions(messages: Conversation) -> str:
    """All that is before the last answer: the same in two conversations, the same question."""
    return _joined(messages[:-1])


def _joined(messages: Conversation) -> str:
    return "\n".join(message["content"] for message in messages)


def _warn(data: ChatData) -> None:
    """Say what was read and is not learnt, and what makes the scores worth less."""
    if data.unused_fields:
        found = ", ".join(f"{name} in {count}" for name, count in data.unused_fields.most_common())
        logger.info(
            f"align: WARNING: fields with text that is not learnt: {found} records; "
            "question_key, context_key and answer_key of a source name its fields"
        )
    if unlearnt := data.counts["answers_with_weight_0"]:
        logger.info(f"align: {unlearnt} answers have weight 0: read as context, not learnt")
    if 0 < len(data.heldout) < MIN_HELDOUT:
        logger.info(
            f"align: WARNING: only {len(data.heldout)} held-out conversations: "
            "their loss says little; more conversations, or a larger align.heldout_fraction"
        )
    if repeated := data.counts["heldout_questions_in_train"]:
        logger.info(
            f"align: {repeated} of {len(data.heldout)} held-out conversations ask what a "
            "training conversation asks"
        )
    if data.personal:
        found = ", ".join(f"{kind} in {count}" for kind, count in data.personal.most_common())
        logger.info(
            f"align: WARNING: conversations hold personal data or secrets ({found}); "
            "a model may repeat them word for word; remove them from the files"
        )


def check_share(
    quarantined: Sequence[Mapping[str, Any]],
    where: str,
    num_read: int,
    allowed: float,
    kind: str = "conversations",
) -> None:
    """Raise UserError where too many records of a source are broken; long ones are not."""
    broken = [row for row in quarantined if row["reason"] not in (TOO_LONG, TOO_LONG_PAIR)]
    if len(broken) > allowed * num_read:
        first = broken[0]
        share = math.ceil(100 * len(broken) / num_read) / 100
        fix = f"fix or remove them, or --set align.max_quarantined_fraction={share}"
        if len(broken) == num_read:  # a larger share would leave nothing
            fix = "write them in a layout of docs/chat-data.md, or name the fields of the source"
        raise UserError(
            f"{kind}-broken",
            where,
            f"{len(broken)} of {num_read} {kind} cannot be used, the first at "
            f"{first['place']}: {first['reason']}",
            fix,
        )


def records_of(source: Source, where: str, language: str = "pt") -> Iterator[Record]:
    """All records of a source in order, each with its place."""
    if source.kind == "storybook":
        made = synthetic.conversations(
            seed=source.seed,
            num_conversations=source.num_documents,
            split="train",
            language=language,
        )
        for number, one in enumerate(made, start=1):
            yield Record(Path("storybook"), number, {"messages": one["messages"]})
    elif source.kind == "hub":
        yield from hub_records(
            source.path,
            config=source.config,
            split=source.split,
            revision=source.revision,
            where=f"{where}.path",
        )
    else:
        paths = source.local_paths()
        if not paths:
            what = f'no file behind "{source.path}"'
            fix = "give a file, a folder or a glob of .jsonl, .json, .csv or .parquet"
            raise UserError("source-empty", f"{where}.path", what, fix)
        for path in paths:
            yield from read_records(path, language)


def _usable(
    record: Record, source: Source, data: ChatData, encoder: TextEncoder, max_tokens: int
) -> Conversation:
    """The conversation of a record, as truncated to fit; empty where it goes to quarantine."""
    counts = data.counts
    counts["conversations_read"] += 1
    if record.error:
        quarantine(data, record, record.error)
        return []
    if is_preference(record.fields):
        raise UserError(
            "preferences-given",
            record.place,
            f"has the keys {', '.join(sorted(record.fields)[:6])}: preferences, not conversations",
            "name the file under align.preferences, or give prompt and completion",
        )
    try:
        messages = read_conversation(record.fields, source)
    except ConversationError as reason:
        quarantine(data, record, str(reason))
        return []
    count_unused(data, record, source, messages)
    num_messages = len(messages)
    messages = truncate_turns(messages, encoder, max_tokens)
    if not any(is_learnt(message) for message in messages):
        quarantine(data, record, TOO_LONG)
        return []
    counts["conversations_truncated"] += len(messages) < num_messages
    counts["turns_cut"] += num_messages - len(messages)
    counts["conversations_with_special_text"] += any(
        token in message["content"] for message in messages for token in SPECIAL_TOKENS
    )
    counts["answers_with_weight_0"] += sum(
        message["role"] == "assistant" and not is_learnt(message) for message in messages
    )
    return messages


def count_unused(
    data: ChatData, record: Record, source: Source, messages: Sequence[Message]
) -> None:
    """Count the fields whose text is in no message of a record."""
    ignored = (source.id_key, source.url_key, *source.only)
    data.unused_fields.update(unused_fields(record.fields, messages, ignored))


def quarantine(data: ChatData, record: Record, reason: str, kind: str = "conversations") -> None:
    """Add a record to the quarantine, with its place, the reason and its first characters."""
    raw = record.raw or json.dumps(record.fields, ensure_ascii=False, default=str)
    data.counts[f"{kind}_quarantined"] += 1
    data.reasons[_reason_kind(reason)] += 1
    data.quarantine.append(
        {
            "place": record.place if record.path.parent == Path() else _short(record),
            "reason": reason,
            "sha1": hashlib.sha1(raw.encode("utf-8", "replace")).hexdigest(),
            "start": raw[:200],
        }
    )


def _short(record: Record) -> str:
    return f"{record.path.name}:{record.line}"


def _reason_kind(reason: str) -> str:
    """A reason without its details, for counting: `message 3: empty text` -> `empty text`."""
    head, colon, rest = reason.partition(": ")
    return rest if colon and head.startswith("message ") else head.partition(" (")[0]


def truncate_turns(messages: Conversation, encoder: TextEncoder, max_tokens: int) -> Conversation:
    """The first turns of a conversation that fit and end with an answer; may be empty."""
    while messages and len(encoder.render(messages, add_generation_prompt=False)) > max_tokens:
        messages = messages[:-2]
        if not messages or messages[-1]["role"] != "assistant":
            return []
    return messages


def _check(rendered: Rendered, encoder: TextEncoder, record: Record) -> None:
    """What training on answers relies on; a failure here is a bug, not bad input."""
    assert any(rendered.mask) and rendered.ids[-1] == encoder.eos_id, record.place
    assert list(rendered.ids).count(encoder.bos_id) == 1, record.place


def write_quarantine(data: ChatData, out_dir: Path) -> None:
    """Write quarantined records, one JSON object per line, in reading order."""
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in data.quarantine]
    # Lone surrogates, which UTF-8 cannot encode, become JSON escapes.
    write_atomically(out_dir / QUARANTINE_NAME, "".join(lines).encode("utf-8", "backslashreplace"))


def write_conversations(data: ChatData, out_dir: Path) -> None:
    """Write the training and the held-out split, one `{"messages": [...]}` per line."""
    for name, conversations in (
        (TRAIN_NAME, data.train_messages),
        (HELDOUT_NAME, data.heldout_messages),
    ):
        lines = [json.dumps({"messages": one}, ensure_ascii=False) + "\n" for one in conversations]
        packed = zstandard.ZstdCompressor(level=3).compress("".join(lines).encode("utf-8"))
        write_atomically(out_dir / name, packed)


def heldout_questions(
    settings: AlignSettings, data: ChatData, language: str = "pt"
) -> list[tuple[Conversation, tuple[str, ...]]]:
    """Held-out questions, each with words of which a correct answer contains one.

    A storybook has questions about facts that no training conversation asks for. From other
    sources, held-out conversations up to the last question are taken, with no expected words.
    """
    questions: list[tuple[Conversation, tuple[str, ...]]] = []
    for source in settings.sources:
        if source.kind == "storybook":
            made = synthetic.conversations(
                seed=source.seed,
                num_conversations=settings.num_questions,
                split="heldout",
                language=language,
            )
            for one in made:
                messages: Any = one["messages"][:-1]
                assert problem_with(messages) is None
                questions.append((messages, tuple(one["expected"])))
    if not questions:
        questions = [(messages[:-1], ()) for messages in data.heldout_messages]
    return questions[: settings.num_questions]
