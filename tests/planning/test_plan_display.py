"""The plan as it is printed."""

from __future__ import annotations

import io

from rich.console import Console

from teenytinyllama.planning.plan_display import show_plan
from teenytinyllama.planning.plan_request import PlanRequest
from teenytinyllama.planning.planner import make_plan
from teenytinyllama.planning.reference_data import gpus


def printed(text_bytes: float) -> str:
    request = PlanRequest(
        gpu=gpus()["a100-40gb"], usd_per_hour=1.29, text_bytes=text_bytes, budget_usd=50.0
    )
    out = io.StringIO()
    show_plan(make_plan(request), Console(file=out, width=120))
    return out.getvalue()


def test_a_plan_shows_its_cost_other_sizes_and_other_budgets() -> None:
    text = printed(5e9)
    for words in ("The plan", "NVIDIA A100", "nats per token", "Other sizes", "Other budgets"):
        assert words in text
    assert "Twice the money lowers the loss" in text


def test_a_plan_below_the_range_of_the_laws_shows_no_loss() -> None:
    text = printed(50e6)
    assert "by no published law; see below" in text
    assert "Other sizes" not in text
    for words in ("What the money buys", "16 epochs", "student of 8", "bits per byte", "Worth:"):
        assert words in text
    assert "What the money buys" not in printed(5e11)
