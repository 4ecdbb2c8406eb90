"""Reference data agrees with the published records."""

from __future__ import annotations

import pytest

from teenytinyllama.modeling.model_size import num_parameters
from teenytinyllama.planning.reference_data import gpus, reference_runs


@pytest.mark.parametrize(
    ("hours", "gpu_kwh"), [(2.880, 4.874), (34.02, 62.49), (68.26, 129.4), (165.9, 314.8)]
)
def test_energy_of_the_successor_on_four_gpus(hours: float, gpu_kwh: float) -> None:
    predicted = hours * gpus()["a100-80gb"].mean_power_w * 4 / 1000
    assert predicted == pytest.approx(gpu_kwh, rel=0.15)


def test_reference_runs_have_the_sizes_of_the_papers() -> None:
    sizes = {one.name: num_parameters(one.model, 32_000) for one in reference_runs()}
    assert sizes["TTL-160m"] == 162_417_408
    assert sizes["TTL-460m"] == 468_239_360
    assert sizes["Tucano-630m"] == 630_253_568
    assert sizes["Tucano-2b4"] == 2_444_618_240


def test_every_price_has_a_source_and_a_date() -> None:
    for card in gpus().values():
        if card.usd_per_hour:
            assert any(year in card.price_from for year in ("2024", "2025", "2026"))
        else:
            assert card.price_from == "your own machine"
