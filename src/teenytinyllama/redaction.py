"""Secrets and personal folders in text: the one detector, and their removal from our own output.

Logs, errors, manifests, the report and the cards pass through `redact`; `ttl publish` refuses what
`find_secrets` finds, and chat data is checked with it. A secret has a known form (a provider's
token, a private key, a password in a URL) or is the value of an environment variable whose name
says so.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

# Kind, strings of which a text must have one before the pattern is tried, and the pattern, whose
# group `secret`, if any, is the secret itself. Secrets are rare: for nearly every text a few
# searches for fixed strings are enough.
_KINDS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("hugging-face-token", ("hf_", "api_org_"), r"\b(?:hf_|api_org_)[A-Za-z0-9]{30,}"),
    ("github-token", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), r"\bgh[pousr]_[A-Za-z0-9]{36,}"),
    ("github-token", ("github_pat_",), r"\bgithub_pat_\w{50,}"),
    ("gitlab-token", ("glpat-",), r"\bglpat-[\w-]{20,}"),
    ("aws-key", ("AKIA", "ASIA"), r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    ("api-key", ("sk-", "sk_live_"), r"\b(?:sk-[\w-]{20,}|sk_live_\w{20,})"),
    ("google-key", ("AIza", "ya29."), r"\b(?:AIza[\w-]{35}|ya29\.[\w-]{30,})"),
    ("slack-token", ("xox",), r"\bxox[abposr]-[\w-]{10,}"),
    ("pypi-token", ("pypi-",), r"\bpypi-[\w-]{50,}"),
    ("npm-token", ("npm_",), r"\bnpm_[A-Za-z0-9]{36}\b"),
    ("wandb-key", ("wandb_v1_",), r"\bwandb_v1_\w{30,}"),
    ("web-token", ("eyJ",), r"\beyJ[\w-]{12,}\.eyJ[\w-]{12,}\.[\w-]{12,}"),
    (
        "private-key",
        (" PRIVATE KEY",),
        r"-----BEGIN[A-Z ]{0,20} PRIVATE KEY(?: BLOCK)?-----(?:(?:\s|\\n)*[\w+/=:\s\\]{60,}"
        r"(?:-----END[A-Z ]{0,20} PRIVATE KEY(?: BLOCK)?-----)?)?",
    ),
    (
        "password-in-address",
        ("://",),
        r"://(?P<secret>[^\s/:@\"'<>]{1,100}:(?!(?i:pass|password|senha|passwd|pwd|xxx+|\*+)@)"
        r"[^\s/@\"'<>]{3,100})@[\w\[]",
    ),
    ("netrc-password", ("password ",), r"\blogin \S{1,100}\s+password (?P<secret>\S{6,100})"),
)
_PATTERNS = tuple((kind, gates, re.compile(pattern)) for kind, gates, pattern in _KINDS)
_SECRET_NAME = re.compile(r"(?:TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY|CREDENTIAL)")
MIN_SECRET_CHARACTERS = 8
_HOMES = re.compile(
    r"(?<![\w.])(?:/home/|/Users/|[A-Za-z]:\\{1,2}Users\\{1,2})(?!\[user\])[^\s/\\\"'<>:,;\[]{1,64}"
)


@dataclass(frozen=True)
class Secret:
    """Kind and position of a secret; `fingerprint` identifies it without showing it."""

    kind: str
    start: int
    end: int
    fingerprint: str


def find_secrets(text: str) -> Iterator[Secret]:
    """Every secret in a text, by kind.

    >>> [s.kind for s in find_secrets("https://ana:segredo9@example.org/x")]
    ['password-in-address']
    """
    for kind, gates, pattern in _PATTERNS:
        if any(gate in text for gate in gates):
            for match in pattern.finditer(text):
                start, end = match.span(_group(pattern))
                yield Secret(kind, start, end, _fingerprint(text[start:end]))
    for name, value in _environment_secrets():
        start = text.find(value)
        if start >= 0:
            kind = f"value-of-{name}"
            yield Secret(kind, start, start + len(value), _fingerprint(value))


def find_personal_folders(text: str) -> Iterator[str]:
    """Home folders, such as `/home/ana`: they name a person. This user's is among them.

    >>> list(find_personal_folders("read /home/ana/textos/a.txt"))
    ['/home/ana']
    """
    if "/" in text or "\\" in text:
        for match in _HOMES.finditer(text):
            yield match[0]
        if _own_home().search(text):
            yield str(Path.home())


def redact(text: str, *, for_others: bool = False) -> str:
    r"""The text without secrets, and with `~` for this user's home folder.

    With `for_others`, for files that leave this machine, `[user]` replaces any person's name.

    >>> redact("hf_" + "a" * 34), redact("https://ana:segredo9@example.org")
    ('[hugging-face-token removed]', 'https://[password-in-address removed]@example.org')
    >>> redact("/home/ana/textos", for_others=True)
    '/home/[user]/textos'
    """
    for kind, gates, pattern in _PATTERNS:
        if any(gate in text for gate in gates):
            text = pattern.sub(partial(_without_secret, kind), text)
    for name, value in _environment_secrets():
        text = text.replace(value, f"[value of {name} removed]")
    if "/" in text or "\\" in text:
        text = _own_home().sub("~", text)
        text = _HOMES.sub(_without_user, text) if for_others else text
    return text


def redact_values(value: Any, *, for_others: bool = False) -> Any:
    """`redact` for every string inside lists and mappings, keys included."""
    clean = partial(redact_values, for_others=for_others)
    if isinstance(value, str):
        return redact(value, for_others=for_others)
    if isinstance(value, Mapping):
        return {clean(key): clean(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [clean(inner) for inner in value]
    return value


def _group(pattern: re.Pattern[str]) -> int:
    return pattern.groupindex.get("secret", 0)


def _without_secret(kind: str, match: re.Match[str]) -> str:
    start, end = match.span(_group(match.re))
    whole = match[0]
    return f"{whole[: start - match.start()]}[{kind} removed]{whole[end - match.start() :]}"


def _without_user(match: re.Match[str]) -> str:
    folder = re.match(r".*[/\\](?=[^/\\]+$)", match[0])
    return f"{folder[0] if folder else ''}[user]"


def _fingerprint(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()[:12]


@cache
def _environment_secrets() -> tuple[tuple[str, str], ...]:
    """Variables named like a secret, longest value first: one may be a prefix of another.

    Read once: reading the environment for every text would cost more than the search.
    """
    found = [
        (name, value)
        for name, value in os.environ.items()
        if len(value) >= MIN_SECRET_CHARACTERS
        and _SECRET_NAME.search(name.upper())
        and not Path(value).is_absolute()  # the path of a secret is not a secret
    ]
    return tuple(sorted(found, key=lambda pair: (-len(pair[1]), pair[0])))


@cache
def _pattern_of_home(home: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w.~]){re.escape(home)}(?=[/\\]|$|[\s\"'<>:,;])")


def _own_home() -> re.Pattern[str]:
    """Matches this user's home folder; a home of `/` names nobody."""
    home = str(Path.home())
    return _pattern_of_home(home if len(home) > 2 else "\0")
