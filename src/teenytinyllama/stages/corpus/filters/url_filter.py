"""`UrlFilter`: rules on the URL of a document, where it has one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from teenytinyllama.stages.corpus.batches import DocumentBatch, ProseFilter, StepConfig
from teenytinyllama.stages.corpus.filters.language_data import load_language

_WORD = re.compile(r"[^\W_]+")


class UrlFilter(ProseFilter):
    """Drops documents of blocked domains, and those with a blocked word in their URL."""

    family = "address"

    def __init__(self, config: StepConfig) -> None:
        super().__init__(config)
        domains = self.settings.filters.blocked_domains
        self._domains = frozenset(domain.lower() for domain in domains)
        self._words = load_language(self.language).url_words

    def apply(self, batch: DocumentBatch) -> None:
        """Drop documents by their URL."""
        for one in batch.remaining():
            reason = url_reason(one.document.url, self._domains, self._words)
            if reason is not None:
                batch.drop(one, reason)


def url_reason(url: str, domains: frozenset[str], words: frozenset[str]) -> str | None:
    """The reason to drop a document for its URL, or None.

    `url_domain`: its host, or a domain above it, is blocked; `url_word`: a blocked word occurs in
    it as a whole word. A URL that cannot be parsed drops nothing.

    >>> url_reason("https://loja.exemplo.com/p/1", frozenset({"exemplo.com"}), frozenset())
    'url_domain'
    >>> url_reason("https://a.br/cassino-online", frozenset(), frozenset({"cassino"}))
    'url_word'
    >>> url_reason("https://a.br/assassino", frozenset(), frozenset({"sino"})) is None
    True
    """
    if not url:
        return None
    try:
        host = (urlsplit(url if "//" in url else f"//{url}").hostname or "").rstrip(".")
    except ValueError:
        return None
    if _is_blocked(host.split("."), domains):
        return "url_domain"
    if words and not words.isdisjoint(_WORD.findall(url.lower())):
        return "url_word"
    return None


def _is_blocked(labels: Sequence[str], domains: frozenset[str]) -> bool:
    return any(".".join(labels[start:]) in domains for start in range(len(labels)))
