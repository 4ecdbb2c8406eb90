import pytest

from teenytinyllama.training.cpu import kernels


@pytest.fixture
def compiler() -> None:
    reason = kernels._why_nothing_compiles()
    if reason:
        pytest.skip(reason)
