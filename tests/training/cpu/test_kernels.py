from __future__ import annotations

import pytest
import torch._inductor.config as inductor

from teenytinyllama.errors import UserError
from teenytinyllama.training.cpu import kernels


def test_short_runs_are_not_compiled() -> None:
    assert kernels.choose_backend(None, flops=1e13) is kernels.BLOCKED
    assert kernels.choose_backend(False, flops=1e18) is kernels.BLOCKED


@pytest.mark.usefixtures("compiler")
def test_long_runs_are_compiled() -> None:
    assert kernels.choose_backend(None, flops=1e15) is kernels.COMPILED
    assert kernels.choose_backend(True, flops=0) is kernels.COMPILED


def test_without_a_compiler(capsys: pytest.CaptureFixture[str]) -> None:
    kernels._why_nothing_compiles.cache_clear()
    try:
        with inductor.patch({"cpp.cxx": (None, "no-such-compiler")}):
            assert kernels.choose_backend(None, flops=1e15) is kernels.BLOCKED
            assert "not compiled, which costs" in capsys.readouterr().err
            with pytest.raises(UserError, match="no C\\+\\+ compiler"):
                kernels.choose_backend(True, flops=0)
    finally:
        kernels._why_nothing_compiles.cache_clear()
