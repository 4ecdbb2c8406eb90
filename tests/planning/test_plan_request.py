"""Command-line options become a request, and each wrong option is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from teenytinyllama.errors import UserError
from teenytinyllama.planning.plan_request import PlanRequest, request_from_options


def request(**changes: Any) -> PlanRequest:
    options: dict[str, Any] = {
        "gpu": "cpu", "usd_per_hour": None, "text_mb": None, "text": "", "peak_tflops": None,
        "sequence_length": None, "budget_hours": 10.0, "law": "besiroglu",
    }  # fmt: skip
    return request_from_options(**options | changes)


def test_options_override_the_data_of_the_gpu() -> None:
    assert request().sequence_length == 512
    assert request(gpu="h100").sequence_length == 2048
    assert request(gpu="h100").usd_per_hour == 3.0
    changed = request(gpu="h100", peak_tflops=100.0, usd_per_hour=1.5)
    assert (changed.gpu.peak_tflops, changed.usd_per_hour) == (100.0, 1.5)


def test_several_gpus_scale_by_a_stated_efficiency() -> None:
    one = request(gpu="h100", mfu=0.5)
    assert one.flops_per_s == 989e12 * 0.5
    eight = request(gpu="h100", mfu=0.5, num_gpus=8, scaling_efficiency=0.9)
    assert eight.flops_per_s == pytest.approx(8 * 0.9 * one.flops_per_s)
    assert request(gpu="h100", mfu=0.5, scaling_efficiency=0.9).flops_per_s == one.flops_per_s


def test_text_is_measured_and_megabytes_override_its_size(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Era uma vez um sapo. " * 500)
    measured = request(text=str(tmp_path))
    assert measured.text_bytes == pytest.approx(10_500)
    assert measured.different_words == 5
    assert request(text=str(tmp_path), text_mb=3.0).text_bytes == 3e6


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"gpu": "gtx"}, "gpu-unknown"),
        ({"law": "murphy"}, "law-unknown"),
        ({"text": "none/**"}, "text-missing"),
    ],
)
def test_a_wrong_option_is_an_error(changes: dict[str, str], code: str) -> None:
    with pytest.raises(UserError) as error:
        request(**changes)
    assert error.value.code == code
