"""`Split` and `Mixture`: what is held out, and how often each source is read in training.

Text repeated up to four times teaches nearly as much as new text; beyond that, little (Muennighoff
et al. 2023). Only the training split is repeated or thinned out, never the held-out one.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import asdict, dataclass

from teenytinyllama.errors import UserError, did_you_mean
from teenytinyllama.settings.data_preparation import MixSettings
from teenytinyllama.stages.corpus.staging import CorpusStep, DocumentIndex

logger = logging.getLogger(__name__)

MIN_DOCUMENTS = 2  # one to train on, one held out
MIX_REASON = "mix"
MAX_ROWS_SHOWN = 40


class Split(CorpusStep):
    """Holds out the documents whose hash is below a limit: about `heldout_fraction` of them."""

    needs_all_documents = True

    def decide(self) -> None:
        """Set the limit."""
        index, fraction = self.state.index, self.state.settings.heldout_fraction
        index.heldout_limit = heldout_limit(index, fraction)


class Mixture(CorpusStep):
    """Drops and repeats training documents so that each source has its share."""

    needs_all_documents = True

    def decide(self) -> None:
        """Plan, log the plan, and apply it. Raises UserError for sources that do not exist."""
        index = self.state.index
        rows = plan_mix(index, self.state.settings.mix)
        logger.info(table_of(rows))
        apply_mix(index, rows)
        self.state.metrics["mix"] = [asdict(row) for row in rows]


@dataclass(frozen=True, slots=True)
class MixRow:
    """One source in the training split: its documents and bytes, its passes and its share."""

    source: str
    documents: int
    num_bytes: int
    epochs: float
    share: float


def heldout_limit(index: DocumentIndex, fraction: float) -> int:
    """Documents whose hash, as a 64-bit number, is below this are held out.

    Near `fraction` of all. Where chance leaves one of the two splits empty, the document with the
    smallest or largest hash goes there. Raises UserError where fewer than two documents remain.
    """
    hashes = [index.split_hash(row) for row in range(len(index)) if not index.reasons[row]]
    if len(hashes) < MIN_DOCUMENTS:
        raise _nothing_remains(index, len(hashes))
    limit = int(fraction * 2**64)
    return min(max(limit, min(hashes) + 1), max(hashes))


def _nothing_remains(index: DocumentIndex, num_remaining: int) -> UserError:
    reasons = Counter(index.reason(row) for row in range(len(index)) if index.reasons[row])
    if not reasons:
        return UserError(
            "corpus-empty",
            "corpus.sources",
            f"{num_remaining} documents in all, expected {MIN_DOCUMENTS} or more",
            "add text to the sources",
        )
    reason, count = reasons.most_common(1)[0]
    return UserError(
        "corpus-empty",
        "corpus",
        f"{num_remaining} documents remain of {len(index)}; largest filter: {reason} ({count})",
        "check the sources, or loosen that filter",
    )


def plan_mix(index: DocumentIndex, settings: MixSettings) -> list[MixRow]:
    """The passes over each source, largest share first. Raises UserError for unknown names."""
    documents: Counter[str] = Counter()
    num_bytes: Counter[str] = Counter()
    for row in range(len(index)):
        if not index.reasons[row] and not index.is_heldout(row):
            documents[index.source(row)] += 1
            num_bytes[index.source(row)] += index.num_bytes[row]
    epochs = _epochs(num_bytes, index.conversation_sources & set(num_bytes), settings)
    whole = sum(num_bytes[name] * epochs[name] for name in num_bytes) or 1
    rows = [
        MixRow(
            name,
            documents[name],
            num_bytes[name],
            round(epochs[name], 4),
            round(num_bytes[name] * epochs[name] / whole, 6),
        )
        for name in num_bytes
    ]
    return sorted(rows, key=lambda row: (-row.share, row.source))


def _epochs(
    num_bytes: Counter[str], instructions: set[str], settings: MixSettings
) -> dict[str, float]:
    for field, asked in (("epochs", settings.epochs), ("weights", settings.weights)):
        for name in asked:
            if name not in num_bytes:
                raise UserError(
                    "mix-unknown-source",
                    f"corpus.mix.{field}.{name}",
                    "no document of a source of this name remains",
                    did_you_mean(name, num_bytes),
                )
    weights = dict(settings.weights)
    if settings.instruction_share is not None:
        weights = _by_kind(num_bytes, instructions, settings.instruction_share)
    if settings.temperature is not None:
        weights = {name: size ** (1 / settings.temperature) for name, size in num_bytes.items()}
    if not weights:
        return {name: settings.epochs.get(name, 1.0) for name in num_bytes}
    whole = sum(num_bytes.values())
    parts = sum(weights.values())
    return {
        name: min(whole * weights.get(name, 0.0) / parts / num_bytes[name], settings.max_epochs)
        for name in num_bytes
    }


def _by_kind(num_bytes: Counter[str], instructions: set[str], share: float) -> dict[str, float]:
    """Weights that give conversations their share; within a kind, sources count by bytes."""
    spoken = sum(num_bytes[name] for name in instructions)
    written = sum(num_bytes.values()) - spoken
    if not spoken or not written:
        missing = "conversations" if not spoken else "text"
        raise UserError(
            "mix-one-kind",
            "corpus.mix.instruction_share",
            f"there is no source of {missing} to make a share of",
            'add a source with shape = "conversation", or remove instruction_share',
        )
    return {
        name: num_bytes[name] * (share / spoken if name in instructions else (1 - share) / written)
        for name in num_bytes
    }


def apply_mix(index: DocumentIndex, rows: list[MixRow]) -> None:
    """Drop what the mix leaves out, and note the number of copies of what it repeats.

    A fraction of a pass takes the documents whose hash is lowest: the same in every run.
    """
    epochs = {row.source: row.epochs for row in rows}
    for row in range(len(index)):
        if index.reasons[row] or index.is_heldout(row):
            continue
        whole, part = divmod(epochs[index.source(row)], 1)
        chance = int.from_bytes(index.digest(row)[8:], "big") / 2**64
        count = int(whole) + (chance < part)
        if count == 0:
            index.drop(row, MIX_REASON)
        elif count > 1:
            index.copies[row] = count


def table_of(rows: list[MixRow]) -> str:
    """The mix as a table for the log.

    >>> print(table_of([MixRow("leis", 2, 3_000_000, 1.0, 0.75)]))
    corpus: training mix
      source                      documents         MB   epochs   share
      leis                                2        3.0     1.00 75.0 %
    """
    lines = [
        "corpus: training mix",
        f"  {'source':<26} {'documents':>10} {'MB':>10} {'epochs':>8}   share",
    ]
    lines += [
        f"  {row.source[:26]:<26} {row.documents:>10,} {row.num_bytes / 1e6:>10,.1f}"
        f" {row.epochs:>8.2f} {row.share:>5.1%}".replace("%", " %")
        for row in rows[:MAX_ROWS_SHOWN]
    ]
    if len(rows) > MAX_ROWS_SHOWN:
        lines.append(f"  and {len(rows) - MAX_ROWS_SHOWN} more")
    return "\n".join(lines)
