"""`ttl corpus RECIPE --explain ID`: what each rule says of one document, with its number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from teenytinyllama.artifacts.documents import Document, read_json_lines
from teenytinyllama.errors import UserError
from teenytinyllama.settings.data_preparation import FilterSettings
from teenytinyllama.stages.corpus.filters import heuristic_rules
from teenytinyllama.stages.corpus.filters.filter_pipeline import Chain
from teenytinyllama.stages.corpus.filters.word_table import words_of


@dataclass(frozen=True)
class Said:
    """One rule on one document. `threshold` is None where the rule is off."""

    reason: str
    meaning: str
    value: float
    side: str
    threshold: float | None

    @property
    def drops(self) -> bool:
        """Whether this rule alone would drop the document."""
        if self.threshold is None:
            return False
        return self.value > self.threshold if self.side == "max" else self.value < self.threshold

    def line(self) -> str:
        """The rule as a row of the table."""
        kept = "off"
        if self.threshold is not None:
            kept = f"{'<=' if self.side == 'max' else '>='} {self.threshold:g}"
        verdict = "DROPS" if self.drops else "-" if self.threshold is None else "passes"
        return f"{self.reason:30}{self.value:>11.4f}  {kept:<11}{verdict:8}{self.meaning}"


def what_rules_say(text: str, settings: FilterSettings, language: str) -> list[Said]:
    """Every rule that gives a number, in the order in which they judge, whether on or off.

    The numbers come from the plain rules, not from the arrays that judged the corpus.
    """
    chain = Chain(settings, language)
    found: list[Said] = []
    if "language" in settings.families:
        probability = chain.language_probability(text)
        meaning = f"probability of the language {language}"
        found.append(
            Said(heuristic_rules.LANGUAGE, meaning, probability, "min", chain.min_language)
        )
    words = words_of(text, settings.words, language)
    values = heuristic_rules.measure(text, words, chain.data.stop_words)
    for rule in heuristic_rules.RULES:
        threshold = chain.thresholds.get(rule.reason)
        found.append(Said(rule.reason, rule.meaning, values[rule.reason], rule.side, threshold))
    return found


def explain_document(
    corpus_dir: Path, document_id: str, settings: FilterSettings, language: str
) -> str:
    """The table for one document of a finished corpus, kept or dropped.

    Raises UserError where the corpus is not there or has no document of this id.
    """
    document, place = _find(corpus_dir, document_id)
    chain = Chain(settings, language)
    (verdict,) = chain.judge([document.text], urls=[document.url])
    lines = [
        f"document   {document.id}",
        f"source     {document.source} ({document.license})",
        f"size       {len(document.text):,} characters, {document.num_bytes:,} bytes",
        f"stands in  {place}",
        f"filters    {'drop it: ' + verdict.reason if verdict.reason else 'keep it'}",
    ]
    if document.url:
        lines.append(f"address    {document.url}")
    if document.text.strip():
        lines += ["", f"{'rule':30}{'value':>11}  {'kept if':<11}{'says':8}meaning"]
        lines += [said.line() for said in what_rules_say(document.text, settings, language)]
    return "\n".join(lines)


def _find(corpus_dir: Path, document_id: str) -> tuple[Document, str]:
    known: list[str] = []
    for path in _shards(corpus_dir):
        for row in read_json_lines(path):
            if row.get("id") == document_id:
                return Document(**row), _place(path.relative_to(corpus_dir))
            if len(known) < 3:
                known.append(str(row.get("id")))
    if not known:
        raise UserError(
            "documents-missing",
            str(corpus_dir),
            "no documents here",
            "run `ttl corpus RECIPE` first",
        )
    raise UserError(
        "document-unknown",
        f"--explain {document_id}",
        f"no document of {corpus_dir} has this id",
        f"ids look like: {', '.join(known)}",
    )


def _place(shard: Path) -> str:
    """`train`, `heldout` or `dropped/<reason>`."""
    return str(shard.parent) if shard.parent.name else shard.name.split("-")[0]


def _shards(corpus_dir: Path) -> Iterator[Path]:
    yield from sorted(corpus_dir.glob("dropped/*/*.jsonl.zst"))
    for split in ("heldout", "train"):
        yield from sorted(corpus_dir.glob(f"{split}-*.jsonl.zst"))
