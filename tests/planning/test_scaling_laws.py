"""Published laws and their offset against public runs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from teenytinyllama.modeling.model_size import num_parameters
from teenytinyllama.planning.plan_request import PlanRequest
from teenytinyllama.planning.reference_data import gpus, reference_runs
from teenytinyllama.planning.scaling_laws import law_offset, published_law

A100 = gpus()["a100-40gb"]


def asked(**changes: object) -> PlanRequest:
    base = PlanRequest(gpu=A100, usd_per_hour=1.29, text_bytes=5e9, budget_usd=50.0)
    return replace(base, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [one.name for one in reference_runs()])
def test_loss_of_a_run_left_out_of_the_offset(name: str) -> None:
    reference = next(one for one in reference_runs() if one.name == name)
    chosen = published_law("besiroglu")
    found = law_offset(chosen, without=[name])
    parameters = num_parameters(reference.model, 32_000)
    middle = (
        chosen.loss_repeating(parameters, reference.tokens, reference.unique_tokens) + found.offset
    )
    assert abs(reference.loss - middle) <= found.half_width
    assert found.half_width < 0.25


def test_the_papers_misprint_is_reproduced_and_not_the_default() -> None:
    # Its own script printed 2 to the loss, for a loss in nats: 11.35 in place of 33.28.
    loss = published_law("paper").loss(162_417_408, 3_751_936_000)
    assert 2**loss == pytest.approx(11.352, abs=0.001)
    assert published_law("hoffmann").alpha == 0.34
    assert asked().law == "besiroglu"
