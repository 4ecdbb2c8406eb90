"""Limits of `ttl serve`."""

from __future__ import annotations

import pytest

from teenytinyllama.errors import UserError
from teenytinyllama.serving.limits import Limits


def test_an_unknown_limit_or_value_is_an_error() -> None:
    for assignment, words in (("max_row=3", "max_rows"), ("max_rows=0", "--set max_rows=64")):
        with pytest.raises(UserError) as caught:
            Limits().changed(assignment)
        assert words in caught.value.fix
