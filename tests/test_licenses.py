from __future__ import annotations

import pytest

from teenytinyllama.errors import UserError
from teenytinyllama.licenses import model_license, most_restrictive


@pytest.mark.parametrize(
    ("licenses", "strictest"),
    [
        (["MIT", "CC0-1.0"], "MIT"),
        (["Apache-2.0", "CC-BY-SA-4.0", "CC-BY-4.0"], "CC-BY-SA-4.0"),
        (["CC-BY-SA-4.0", "CC-BY-NC-4.0"], "CC-BY-NC-4.0"),
        (["CC-BY-NC-4.0", "CC-BY-NC-ND-4.0"], "CC-BY-NC-ND-4.0"),
        (["CC-BY-NC-4.0", ""], "unknown"),
        (["CC0-1.0", "research-only"], "research-only"),
        ([], "unknown"),
    ],
)
def test_most_restrictive_license(licenses: list[str], strictest: str) -> None:
    assert most_restrictive(licenses).license == strictest


@pytest.mark.parametrize(
    ("wanted", "licenses", "given"),
    [
        ("", ["MIT", "CC-BY-4.0"], "CC-BY-4.0"),
        ("Apache-2.0", ["MIT", "CC-BY-4.0", "CC0-1.0"], "Apache-2.0"),
        ("CC-BY-SA-4.0", ["CC-BY-SA-3.0", "MIT"], "CC-BY-SA-4.0"),
        ("CC-BY-NC-4.0", ["CC-BY-NC-4.0"], "CC-BY-NC-4.0"),
        ("", ["CC-BY-SA-4.0", "GPL-3.0"], "other"),
        ("", ["CC-BY-SA-4.0", "CC-BY-NC-4.0"], "other"),
    ],
)
def test_licenses_that_are_compatible(wanted: str, licenses: list[str], given: str) -> None:
    assert model_license(wanted, licenses) == given


@pytest.mark.parametrize(
    ("wanted", "source"),
    [
        ("Apache-2.0", "CC-BY-SA-4.0"),
        ("Apache-2.0", "CC-BY-NC-4.0"),
        ("MIT", ""),
        ("CC-BY-NC-4.0", "CC-BY-SA-4.0"),  # share-alike forbids further conditions
        ("GPL-3.0", "CC-BY-SA-4.0"),
        ("CC-BY-4.0", "research-only"),
    ],
)
def test_licenses_that_clash(wanted: str, source: str) -> None:
    with pytest.raises(UserError, match="license-clash"):
        model_license(wanted, ["MIT", source])
