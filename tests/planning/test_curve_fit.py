"""A law fitted to scaling runs, and its interval."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from teenytinyllama.errors import UserError
from teenytinyllama.planning.curve_fit import ScalingRun, fit_law
from teenytinyllama.planning.plan_request import PlanRequest
from teenytinyllama.planning.planner import make_plan
from teenytinyllama.planning.reference_data import gpus
from teenytinyllama.planning.scaling_laws import Law, published_law

A100 = gpus()["a100-40gb"]


def asked(**changes: object) -> PlanRequest:
    base = PlanRequest(gpu=A100, usd_per_hour=1.29, text_bytes=5e9, budget_usd=50.0)
    return replace(base, **changes)  # type: ignore[arg-type]


def runs(truth: Law, noise: tuple[float, ...]) -> list[ScalingRun]:
    sizes = [(n, d) for d in (2e6, 8e6) for n in (4e5, 1e6, 3e6)]
    return [
        ScalingRun(f"{n}-{d}", int(n), d, 1e9, truth.loss(n, d) + error)
        for (n, d), error in zip(sizes, noise, strict=True)
    ]


def test_runs_without_noise_give_the_law_back() -> None:
    base = published_law("besiroglu")
    truth = Law("true", 1.2, 300.0, 1500.0, base.alpha, base.beta)
    found = fit_law(base, runs(truth, (0.0,) * 6), bytes_per_token=4.0)
    assert (found.law.e, found.law.a, found.law.b) == pytest.approx((1.2, 300.0, 1500.0), rel=1e-6)
    middle, half = found.predict(1e8, 2e9, 2e9)
    assert middle == pytest.approx(truth.loss(1e8, 2e9), abs=1e-6)
    assert half < 1e-6
    assert found.largest_predicted == pytest.approx(truth.loss(3e6, 8e6), abs=1e-6)


def test_noise_widens_the_interval_far_away() -> None:
    base = published_law("besiroglu")
    truth = Law("true", 1.2, 300.0, 1500.0, base.alpha, base.beta)
    found = fit_law(base, runs(truth, (0.02, -0.02, 0.01, -0.01, 0.02, -0.02)), 4.0)
    near, far = found.predict(1e6, 4e6, 1e9), found.predict(1e8, 2e9, 2e9)
    assert abs(near[0] - truth.loss(1e6, 4e6)) <= near[1]
    assert abs(far[0] - truth.loss(1e8, 2e9)) <= far[1]
    assert 0.02 < near[1] < far[1]
    plan = make_plan(asked(budget_usd=5.0, fitted=found, unique_tokens=1e8, vocab_size=4096))
    assert plan.expected.loss is not None
    assert any("Fitted to 6 runs" in note for note in plan.notes)
    assert json.loads(json.dumps(plan.to_json()))["request"]["fitted"]["spread"] > 0


def test_too_few_runs_are_an_error() -> None:
    base = published_law("besiroglu")
    with pytest.raises(UserError) as error:
        fit_law(base, runs(base, (0.0,) * 6)[:3], 4.0)
    assert error.value.code == "scaling-runs-few"
