"""Rules on the address of a document, where it has one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

_WORD = re.compile(r"[^\W_]+")


def judge_address(url: str, domains: frozenset[str], words: frozenset[str]) -> str | None:
    """The reason to drop a document for its address, or None.

    `url_domain`: its host, or a domain above it, is blocked; `url_word`: a blocked word stands in
    it between marks. An address that cannot be read says nothing.

    >>> judge_address("https://loja.exemplo.com/p/1", frozenset({"exemplo.com"}), frozenset())
    'url_domain'
    >>> judge_address("https://a.br/cassino-online", frozenset(), frozenset({"cassino"}))
    'url_word'
    >>> judge_address("https://a.br/assassino", frozenset(), frozenset({"sino"})) is None
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
