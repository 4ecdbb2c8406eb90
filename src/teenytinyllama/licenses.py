"""The most restrictive licence of a model's sources, and whether a model may have another one.

A model card never has a freer licence than the text that the model was trained on.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Any

from teenytinyllama.errors import UserError

UNKNOWN = "unknown"
NO_DERIVATIVES = 6
UNKNOWN_LEVEL = 7
SHARE_ALIKE = 4
NAME_THE_SOURCE = 3


@dataclass(frozen=True)
class Terms:
    """A licence with the level of its conditions, 1 (none) to 7 (closed or unknown)."""

    license: str
    level: int
    name: str


@cache
def _facts() -> dict[str, Any]:
    return tomllib.loads((files(__package__) / "licenses.toml").read_text(encoding="utf-8"))


@cache
def _rows() -> tuple[tuple[int, str, tuple[str, ...]], ...]:
    return tuple(
        (row["level"], row["name"], tuple(pattern.lower() for pattern in row["licenses"]))
        for row in _facts()["rows"]
    )


def terms_of(license_name: str) -> Terms:
    """The terms of a licence. A missing or unknown licence counts as closed.

    >>> terms_of("CC-BY-SA-4.0").name, terms_of("").level
    ('share alike', 7)
    """
    plain = license_name.strip().lower() or UNKNOWN
    for level, name, patterns in _rows():
        if any(fnmatchcase(plain, pattern) for pattern in patterns):
            return Terms(license_name.strip() or UNKNOWN, level, name)
    return Terms(license_name.strip(), UNKNOWN_LEVEL, "unknown licence")


def hub_name(license_name: str) -> str:
    """The licence's name on the Hub; `other` for one that the Hub does not know.

    >>> [hub_name(name) for name in ("GPL-3.0-or-later", "GFDL-1.2+", "ODC-By-1.0", "PSF-2.0")]
    ['gpl-3.0', 'gfdl', 'odc-by', 'other']
    """
    plain = re.sub(r"(\+|-or-later|-only)$", "", license_name.strip().lower())
    without_version = re.sub(r"-v?[\d.]+$", "", plain)
    return next((name for name in (plain, without_version) if name in _facts()["hub"]), "other")


def licenses_of(counts: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Licences of a stage's text: those counted per document, else those of its sources.

    >>> licenses_of({"licenses": {"MIT": 3}}, {"sources": [{"license": "CC0-1.0"}]})
    ['MIT']
    """
    counted = counts.get("licenses")
    if isinstance(counted, Mapping) and counted:
        return [str(name) for name in counted]
    return [str(source.get("license", "")) for source in settings.get("sources") or ()]


def most_restrictive(licenses: Iterable[str]) -> Terms:
    """The licence with the most conditions; UNKNOWN where there is none.

    >>> most_restrictive(["MIT", "CC-BY-SA-4.0", "CC0-1.0"]).license
    'CC-BY-SA-4.0'
    """
    found = sorted((terms_of(name) for name in set(licenses)), key=lambda t: (-t.level, t.license))
    return found[0] if found else terms_of("")


def model_license(wanted: str, licenses: Iterable[str]) -> str:
    """The licence for the model's card: the wanted one, where the sources allow it.

    Where none is wanted, the most restrictive of the sources; `other` where two of them exclude
    each other. Raises UserError where a source has stricter conditions than the wanted licence.
    """
    found = {terms_of(name) for name in licenses}
    hardest = most_restrictive(terms.license for terms in found)
    alike = {_family(terms.license) for terms in found if terms.level == SHARE_ALIKE}
    if not wanted:
        mixed = len(alike) > 1 or (alike and SHARE_ALIKE < hardest.level < UNKNOWN_LEVEL)
        return "other" if mixed else hardest.license
    mine = terms_of(wanted)
    # Text that needs no more than attribution may be in any model; the card names it.
    too_free = hardest.level > max(mine.level, NAME_THE_SOURCE)
    if too_free or alike - {_family(wanted)}:
        clash = hardest.license if too_free else sorted(alike - {_family(wanted)})[0]
        raise UserError(
            "license-clash",
            "report.license",
            f'"{wanted}" conflicts with a source under "{clash}" ({terms_of(clash).name})',
            "remove that source, or set report.license to what it allows",
        )
    return wanted


def _family(license_name: str) -> str:
    """The licence without its version: share-alike requires the same family.

    >>> _family("CC-BY-SA-4.0"), _family("GPL-3.0-or-later")
    ('CC-BY-SA', 'GPL')
    """
    return re.split(r"-v?\d", license_name)[0].upper()
