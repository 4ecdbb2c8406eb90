"""`ttl corpus RECIPE --explain ID` and `--calibrate CLEAN.txt`: what the filters measure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from teenytinyllama.artifacts.documents import Document, read_json_lines
from teenytinyllama.errors import UserError
from teenytinyllama.settings.data_preparation import CorpusSettings, FilterSettings
from teenytinyllama.settings.recipe import Recipe
from teenytinyllama.stages.corpus.batches import StepConfig
from teenytinyllama.stages.corpus.filters import calibration, heuristic_rules
from teenytinyllama.stages.corpus.filters.heuristic_rules import Rule
from teenytinyllama.stages.corpus.filters.language_data import language_data, load_language
from teenytinyllama.stages.corpus.filters.language_filter import LANGUAGE, LanguageFilter
from teenytinyllama.stages.corpus.filters.quality import CLASSIFIER_NAME, QualityClassifier
from teenytinyllama.stages.corpus.filters.rule_filters import thresholds_for
from teenytinyllama.stages.corpus.filters.toxicity import ToxicityScorer, show_curve
from teenytinyllama.stages.corpus.filters.word_table import words_of
from teenytinyllama.stages.corpus.steps import FilterPipeline


@dataclass(frozen=True)
class RuleResult:
    """One rule on one document. `threshold` is None where the rule is off."""

    rule: Rule
    value: float
    threshold: float | None

    def line(self) -> str:
        """The rule as a row of the table; DROPS where it alone would drop the document."""
        kept_if, decision = "off", "-"
        if self.threshold is not None:
            kept_if = f"{'<=' if self.rule.side == 'max' else '>='} {self.threshold:g}"
            decision = "DROPS" if self.rule.drops(self.value, self.threshold) else "passes"
        name, meaning = self.rule.reason, self.rule.meaning
        return f"{name:30}{self.value:>11.4f}  {kept_if:<11}{decision:8}{meaning}"


def explain(recipe: Recipe, corpus_dir: Path, document_id: str) -> str:
    """What each filter measures on one document of a finished corpus, kept or dropped.

    Raises UserError where the corpus is not there or has no document of this id.
    """
    settings, language = _settings(recipe), recipe.language
    document, place = _find(corpus_dir, document_id)
    classifier = None
    has_one = (corpus_dir / CLASSIFIER_NAME).is_file()  # not of a corpus older than the setting
    if has_one and settings.filters.quality_classifier is not None:
        classifier = QualityClassifier.load(corpus_dir, language)
    filters = FilterPipeline(settings.filters, language, classifier)
    (result,) = filters.apply([document.text], [document.url])
    lines = [
        f"document   {document.id}",
        f"source     {document.source} ({document.license})",
        f"size       {len(document.text):,} characters, {document.num_bytes:,} bytes",
        f"stored in  {place}",
        f"filters    {'drop it: ' + result.reason if result.reason else 'keep it'}",
    ]
    if document.url:
        lines.append(f"URL        {document.url}")
    if document.scores:
        scores = (f"{name} {value:g}" for name, value in document.scores.items())
        lines.append(f"scores     {', '.join(scores)}")
    if document.text.strip():
        lines += ["", f"{'rule':30}{'value':>11}  {'kept if':<11}{'result':8}meaning"]
        lines += [rule.line() for rule in rule_results(document.text, settings, language)]
    return "\n".join(lines)


def rule_results(text: str, settings: CorpusSettings, language: str) -> list[RuleResult]:
    """Every rule with a number, in the order in which they apply, whether on or off.

    The numbers come from the plain rules, not from the arrays that filtered the corpus.
    """
    config, filters = StepConfig(settings, language), settings.filters
    found: list[RuleResult] = []
    if LanguageFilter.is_wanted(config):
        step = LanguageFilter(config)
        (probability,) = step.probabilities([text])
        rule = Rule(LANGUAGE, "language", "min", f"probability of the language {language}")
        found.append(RuleResult(rule, probability, step.min_probability))
    thresholds = thresholds_for(filters, language)
    words = words_of(text, filters.words, language)
    values = heuristic_rules.measure(text, words, language_data(filters, language).stop_words)
    for rule in heuristic_rules.RULES:
        found.append(RuleResult(rule, values[rule.reason], thresholds.get(rule.reason)))
    return found


def calibrate(recipe: Recipe, clean_path: Path) -> str:
    """Thresholds for the recipe's language and word rule, learned from clean text, as TOML."""
    filters: FilterSettings = _settings(recipe).filters
    documents = calibration.read_clean(clean_path)
    found = calibration.calibrate(documents, filters, recipe.language)
    shown = calibration.as_toml(found, filters, recipe.language)
    if filters.toxicity is not None:
        toxicity = filters.toxicity.model_copy(update={"clean_path": str(clean_path)})
        sentences = load_language(recipe.language).identity_sentences
        shown += "\n\n" + show_curve(ToxicityScorer(toxicity, recipe.language), sentences)
    return shown


def _settings(recipe: Recipe) -> CorpusSettings:
    if recipe.corpus is None:
        raise UserError(
            "stage-not-in-recipe",
            recipe.name,
            "has no section [corpus]",
            "add [corpus] to the recipe",
        )
    return recipe.corpus


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
