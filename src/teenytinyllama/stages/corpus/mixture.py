"""How often each source is read in training: passes by name, or shares of the whole.

Text repeated up to four times teaches nearly as much as new text; beyond that, little (Muennighoff
et al. 2023). Passes count for the training split only: nothing held out is repeated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from teenytinyllama.errors import UserError, did_you_mean
from teenytinyllama.settings.data_preparation import MixSettings
from teenytinyllama.stages.corpus.document_index import Index

MIX_REASON = "mix"
ROWS_SHOWN = 40


@dataclass(frozen=True, slots=True)
class MixRow:
    """One source in the training split: what there is of it, and what is made of it."""

    source: str
    documents: int
    num_bytes: int
    epochs: float
    share: float


def plan_mix(
    index: Index, is_heldout: Callable[[int], bool], settings: MixSettings
) -> list[MixRow]:
    """The passes over each source, largest share first. Raises UserError for unknown names."""
    documents: Counter[str] = Counter()
    num_bytes: Counter[str] = Counter()
    for row in range(len(index)):
        if not index.reasons[row] and not is_heldout(row):
            documents[index.source(row)] += 1
            num_bytes[index.source(row)] += index.num_bytes[row]
    epochs = _epochs(num_bytes, index.instruction_sources & set(num_bytes), settings)
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
    if not weights:
        return {name: settings.epochs.get(name, 1.0) for name in num_bytes}
    whole = sum(num_bytes.values())
    parts = sum(weights.values())
    return {
        name: min(whole * weights.get(name, 0.0) / parts / num_bytes[name], settings.max_epochs)
        for name in num_bytes
    }


def _by_kind(num_bytes: Counter[str], instructions: set[str], share: float) -> dict[str, float]:
    """Weights that give conversations their share, each kind divided by bytes."""
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


def apply_mix(
    index: Index, rows: list[MixRow], is_heldout: Callable[[int], bool]
) -> dict[int, int]:
    """Drop what the mix leaves out; the number of copies of what it repeats, by row.

    A fraction of a pass takes the documents whose hash is lowest: the same in every run.
    """
    epochs = {row.source: row.epochs for row in rows}
    copies: dict[int, int] = {}
    for row in range(len(index)):
        if index.reasons[row] or is_heldout(row):
            continue
        whole, part = divmod(epochs[index.source(row)], 1)
        chance = int.from_bytes(index.digest(row)[8:], "big") / 2**64
        count = int(whole) + (chance < part)
        if count == 0:
            index.drop(row, MIX_REASON)
        elif count > 1:
            copies[row] = count
    return copies


def table_of(rows: list[MixRow]) -> str:
    """The mix as people read it.

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
        for row in rows[:ROWS_SHOWN]
    ]
    if len(rows) > ROWS_SHOWN:
        lines.append(f"  and {len(rows) - ROWS_SHOWN} more")
    return "\n".join(lines)
