"""The base of FLOPs utilisation."""

import pytest

from teenytinyllama.datasheets import peak_tflops
from teenytinyllama.planning.reference_data import gpus


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA A10G", 70),
        ("NVIDIA A10", 125),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 3090 Ti", 80),
        ("NVIDIA RTX A6000", 154.8),
        ("Tesla V100-SXM2-16GB", 125),
        ("Tesla T4", 65),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("CPU, 2 threads", None),
        ("Apple M3", None),
    ],
)
def test_cards_by_the_names_that_drivers_give_them(name, peak):
    assert peak_tflops(name) == peak


def test_the_planner_knows_the_peak_of_each_of_its_cards():
    assert {name: card.peak_tflops for name, card in gpus().items()} == {
        "a100-40gb": 312, "a100-80gb": 312, "h100": 989, "h200": 989, "l4": 121, "l40s": 362,
        "a10g": 70, "rtx3090": 71, "rtx4090": 165, "cpu": 0.15,
    }  # fmt: skip
