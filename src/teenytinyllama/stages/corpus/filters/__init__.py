"""Filters: which documents stay, and why the others go.

`Chain(settings, language).judge(texts)` gives a `Verdict` per text. The rules are in `rules.py`,
their thresholds in `languages/<code>/filters.toml`; everything else here is how to be fast.
"""

from teenytinyllama.stages.corpus.filters.c4_filter import Boilerplate, BoilerplateCounter
from teenytinyllama.stages.corpus.filters.filter_pipeline import Chain, Verdict

__all__ = ["Boilerplate", "BoilerplateCounter", "Chain", "Verdict"]
