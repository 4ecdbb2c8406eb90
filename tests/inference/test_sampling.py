"""Sampling: filters and penalty equal values worked out by hand."""

from __future__ import annotations

import pytest
import torch

from teenytinyllama.errors import UserError
from teenytinyllama.inference.sampling import (
    MIN_TEMPERATURE,
    Sampler,
    Sampling,
    next_token_probabilities,
    penalize,
)

LOGITS = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(temperature=1.0), [0.5, 0.3, 0.15, 0.05]),
        (Sampling(temperature=1.0, top_k=2), [0.625, 0.375, 0, 0]),
        (Sampling(temperature=1.0, top_p=0.5), [1, 0, 0, 0]),
        (Sampling(temperature=1.0, top_p=0.6), [0.625, 0.375, 0, 0]),
        (Sampling(temperature=1.0, min_p=0.2), [0.5, 0.3, 0.15, 0]),
        (Sampling(temperature=0.5, top_k=2), [25 / 34, 9 / 34, 0, 0]),
        (Sampling(temperature=1.0, top_p=1e-320), [1, 0, 0, 0]),  # 0 in fp32
        (Sampling(temperature=MIN_TEMPERATURE), [1, 0, 0, 0]),
    ],
)
def test_filters_keep_the_tokens_worked_out_by_hand(sampling: Sampling, kept: list[float]) -> None:
    found = next_token_probabilities(LOGITS, sampling)
    torch.testing.assert_close(found, torch.tensor(kept, dtype=torch.float32))


def test_repetition_penalty_lowers_logits_of_both_signs() -> None:
    found = penalize(torch.tensor([2.0, -2.0, 1.0]), [0, 1], 2.0)
    assert found.tolist() == [1.0, -4.0, 1.0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"top_p": 0.0},
        {"top_p": float("nan")},
        {"min_p": 2.0},
        {"repetition_penalty": 1e-40},
    ],
)
def test_a_value_out_of_range_is_named(wrong: dict) -> None:
    with pytest.raises(UserError) as error:
        Sampling(**wrong)
    assert (error.value.code, error.value.where) == ("sampling-value", next(iter(wrong)))


@pytest.mark.parametrize("temperature", [5e-324, 1e-40, 1e-6])
def test_a_temperature_too_small_to_divide_by_is_greedy(temperature: float) -> None:
    sampling = Sampling(temperature=temperature, repetition_penalty=2.0)
    sampler = Sampler(sampling, prompt=[1])
    assert sampling.is_greedy and not sampling.is_plain_greedy
    # 4 / 2 for the prompt's token, then 3 / 2 for the one that was chosen.
    assert [sampler.sample(torch.tensor([3.0, 4.0, 1.0])) for _ in range(2)] == [0, 1]
