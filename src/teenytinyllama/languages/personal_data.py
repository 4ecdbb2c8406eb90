"""Personal data replaced by typed marks: e-mail, IP and card numbers, and those of a country.

The corpus stage replaces it; in chat data it is only counted, with a warning.

Numbers count only where their check digits are right: a random number of eleven digits passes as
a CPF once in a hundred times. Each language adds its own patterns in `languages/<code>/pii.toml`.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from teenytinyllama.redaction import find_secrets

# A text without a match has no number to look for.
NUMBER_GATE = re.compile(
    r"[0-9][0-9.\-/ ()]{5,}[0-9]|[0-9A-Z]{3}[./][0-9A-Z]{3,4}[/-]|[0-9A-Z]{14}"
)
# Searched from the @ on: few texts have one, while every word could begin an address. Its name is
# in one alphabet: a script without spaces may stand before it.
EMAIL_NAME = re.compile(
    r"(?:[A-Za-z0-9_À-ɏ][A-Za-z0-9_À-ɏ.%+-]{0,63}|[\u0370-\u052f][\u0370-\u052f.%+-]{0,63})\Z"
)
EMAIL_DOMAIN = re.compile(
    r"@(?:[A-Za-z0-9À-ɏ](?:[A-Za-z0-9À-ɏ-]{0,61}[A-Za-z0-9À-ɏ])?\.){1,8}"
    r"(?!(?:png|jpe?g|gif|svg|webp|ico|css|jsx?|tsx?|json|toml|ya?ml|html?|service|socket|target)\b)"
    r"(?:[A-Za-zÀ-ɏ]{2,24}|xn--[A-Za-z0-9-]{2,59})(?![A-Za-z0-9_À-ɏ(-])"
)
MAX_SECTION = 31
HEADING = re.compile(r"(?:\A|\n)[#*\s]*\Z")
# What stands before the number of a version or a section.
NUMBERED = re.compile(
    r"(?i)(?:vers\w*|revision|release|build|[^a-z]v|(?:^|[\s(])[<>=~]{1,2}|§|art(?:\.|igo)?|item|se[cç]\w{2,5}|section"
    r"|cap[íi]tulo|chapter|anexo|fig(?:\.|ura|ure)?|tabela|table|\bn[º°o]\.?)\W{0,3}\Z"
)
ADDRESS_WITH_PASSWORD = re.compile(r"://[^\s/@]{0,64}\Z")
CARD = r"[3-6](?<![\w.,/+-].)(?:[0-9][ -]?){12,18}(?<=[0-9])(?![\w]|[-./][0-9])"
IPV4 = r"[0-9](?<![\w.-].)(?:[0-9]{0,2}\.)(?:[0-9]{1,3}\.){2}[0-9]{1,3}(?![\w-]|\.[0-9])"
IPV6 = (
    r"[0-9A-Fa-f](?<![\w:.].)[0-9A-Fa-f]{0,3}:(?:[0-9A-Fa-f]{0,4}:){1,6}[0-9A-Fa-f]{1,4}(?![\w:])"
)


@dataclass(frozen=True)
class PersonalDataPattern:
    """One kind of personal data: name in the counts, mark, pattern, and the check of a match."""

    name: str
    mark: str
    regex: re.Pattern[str]
    is_valid: Callable[[str, str], bool]
    """Takes the match and the text before it."""


class PersonalData:
    """Finds and replaces personal data, with the patterns of one language's countries."""

    def __init__(self, language: str) -> None:
        self._numbers = _patterns(language)
        self._gate = re.compile(gate) if (gate := _data(language).get("gate")) else NUMBER_GATE
        self._ipv6 = PersonalDataPattern("ip", "[IP]", re.compile(IPV6), _is_public_address)

    def replace(self, text: str, counts: Counter[str]) -> str:
        """The text with marks; adds the number of each kind found to `counts`.

        >>> found = Counter()
        >>> PersonalData("pt").replace("Ana, ana@x.com.br, CPF 529.982.247-25.", found), dict(found)
        ('Ana, [E-MAIL], CPF [CPF].', {'email': 1, 'cpf': 1})
        """
        if "@" in text:
            text = _replace_emails(text, counts)
        if "::" in text or text.count(":") > 6:
            text = _substitute(self._ipv6, text, counts)
        if self._gate.search(text) or NUMBER_GATE.search(text):
            for pattern in self._numbers:
                text = _substitute(pattern, text, counts)
        return text

    def kinds_in(self, text: str) -> set[str]:
        """Kinds of personal data in a text, and `secret` for a key or token.

        >>> sorted(PersonalData("pt").kinds_in("ana@x.com.br, chave AKIAABCDEFGHIJKLMNOP"))
        ['email', 'secret']
        """
        counts: Counter[str] = Counter()
        self.replace(text, counts)
        return set(counts) | ({"secret"} if any(find_secrets(text)) else set())


def _replace_emails(text: str, counts: Counter[str]) -> str:
    parts, end = [], 0
    for domain in EMAIL_DOMAIN.finditer(text):
        before = text[max(end, domain.start() - 64) : domain.start()]
        name = EMAIL_NAME.search(before)
        if name is None or name[0] == "git":  # the user of a program, as in git@github.com:a/b
            continue
        if not ADDRESS_WITH_PASSWORD.search(before):
            parts += [text[end : domain.start() - len(name[0])], "[E-MAIL]"]
            end = domain.end()
            counts["email"] += 1
    return "".join(parts) + text[end:] if end else text


def _substitute(pattern: PersonalDataPattern, text: str, counts: Counter[str]) -> str:
    def mark(match: re.Match[str]) -> str:
        before = text[max(match.start() - 16, 0) : match.start()]
        if not pattern.is_valid(match[0], before):
            return match[0]
        counts[pattern.name] += 1
        return pattern.mark

    return pattern.regex.sub(mark, text)


@cache
def _data(language: str) -> dict[str, Any]:
    path = resources.files("teenytinyllama.languages") / language / "pii.toml"
    return tomllib.loads(path.read_text("utf-8")) if path.is_file() else {}


@cache
def _patterns(language: str) -> tuple[PersonalDataPattern, ...]:
    """All patterns of numbers, those with the strongest check first."""
    data = _data(language)
    rows = data.get("patterns", [])
    made = [
        PersonalDataPattern(row["name"], row["mark"], re.compile(row["pattern"]), _check_of(row))
        for row in rows
    ]
    return (
        *[pattern for pattern in made if pattern.name in ("cnpj", "cpf")],
        PersonalDataPattern("card", data.get("card_mark", "[CARD]"), re.compile(CARD), _is_card),
        *[pattern for pattern in made if pattern.name not in ("cnpj", "cpf")],
        PersonalDataPattern("ip", "[IP]", re.compile(IPV4), _is_public_address),
    )


def _check_of(row: dict[str, object]) -> Callable[[str, str], bool]:
    if row["check"] == "phone":
        codes = {str(code) for code in row["area_codes"]}  # type: ignore[attr-defined]
        return lambda found, _before: _is_phone(found, codes)
    checks: dict[object, Callable[[str, str], bool]] = {
        "cpf": lambda found, _before: is_cpf(found),
        "cnpj": lambda found, _before: is_cnpj(found),
        "dni": lambda found, _before: is_dni(found),
        "none": lambda _found, _before: True,
    }
    return checks[row["check"]]


def _digits(text: str) -> str:
    return "".join(c for c in text if c.isdigit())


def is_cpf(text: str) -> bool:
    """Whether the two check digits of a CPF are right; eleven equal digits are invalid.

    >>> [is_cpf(number) for number in ("529.982.247-25", "52998224724", "111.111.111-11")]
    [True, False, False]
    """
    numbers = [int(c) for c in _digits(text)]
    if len(numbers) != 11 or len(set(numbers)) == 1:
        return False
    return all(
        sum(n * (size + 1 - k) for k, n in enumerate(numbers[:size])) * 10 % 11 % 10
        == numbers[size]
        for size in (9, 10)
    )


def is_cnpj(text: str) -> bool:
    """Whether the two check digits of a CNPJ, of digits or digits and letters, are right.

    A letter counts as its ASCII code less 48 (Receita Federal, alphanumeric CNPJ).

    >>> [is_cnpj(number) for number in ("11.222.333/0001-81", "12.ABC.345/01DE-35", "0" * 14)]
    [True, True, False]
    """
    values = [ord(c) - 48 for c in text if c.isalnum()]
    if len(values) != 14 or len(set(values)) == 1:
        return False
    weights = (6, 5, 4, 3, 2, 9, 8, 7, 6, 5, 4, 3, 2)
    for size in (12, 13):
        rest = sum(w * v for w, v in zip(weights[-size:], values, strict=False)) % 11
        if values[size] != (0 if rest < 2 else 11 - rest):
            return False
    return True


def is_dni(text: str) -> bool:
    """Whether the letter of a Spanish DNI or NIE is that of its number modulo 23.

    >>> [is_dni(number) for number in ("12345678Z", "12345678A", "X1234567L")]
    [True, False, True]
    """
    digits = text[:8].translate(str.maketrans("XYZ", "012"))
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(digits) % 23] == text[-1]


def _is_card(text: str, _before: str) -> bool:
    """Luhn's check over 13 to 19 digits that are not all one."""
    digits = _digits(text)
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    doubled = [int(c) for c in digits[-2::-2]]
    return (sum(int(c) for c in digits[::-2]) + sum(d * 2 - 9 * (d > 4) for d in doubled)) % 10 == 0


def _is_phone(text: str, area_codes: set[str]) -> bool:
    digits = _digits(text)
    if text.startswith("+"):
        digits = digits.removeprefix("55")
    digits = digits.removeprefix("0")
    if len(digits) in (10, 11):
        mobile = len(digits) == 11
        return digits[:2] in area_codes and (digits[2] == "9" if mobile else digits[2] in "2345")
    return len(digits) == 9


def _is_public_address(text: str, before: str) -> bool:
    """Whether this is the public IP address of one machine, and not a version or section number.

    A random address has an octet above 31 in all but one of 4,000 cases, and section numbers have
    none; public IPv6 addresses of machines begin with 2 or 3 (RFC 4291), while `A::B` is code.

    >>> [_is_public_address(text, "") for text in ("200.147.67.142", "5.2.1.3", "23.4.0.0", "A::B")]
    [True, False, False, False]
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if address.version == 6:
        first, *others = text.split(":")
        return len(first) == 4 and first[0] in "23" and sum(map(bool, others)) >= 2
    octets = address.packed
    # At the start of a line a number is a heading's, and one that ends in 0 a version.
    least = 1 + bool(text.endswith(".0") or HEADING.search(before))
    return (
        address.is_global
        and not address.is_multicast
        and sum(octet > MAX_SECTION for octet in octets) >= least
        and not text.endswith(".0.0")
        and not NUMBERED.search(before)
    )
