"""What the vendors' data sheets say of GPUs: the base of FLOPs utilisation (MFU)."""

from __future__ import annotations

import re

# TFLOP/s of dense products with fp32 accumulation, in bf16; in fp16 for chips that have no bf16
# (Volta and Turing). A card is the entry of most words that are all in its name.
PEAK_TFLOPS = {
    "A10": 125.0,
    "A100": 312.0,
    "A10G": 70.0,
    "A30": 165.0,
    "A40": 149.7,
    "RTX A6000": 154.8,
    "A800": 312.0,
    "B200": 2250.0,
    "GH200": 989.0,
    "H100": 989.0,
    "H100 NVL": 835.0,
    "H100 PCIe": 756.0,
    "H20": 148.0,
    "H200": 989.0,
    "H800": 989.0,
    "L4": 121.0,
    "L40": 181.0,
    "L40S": 362.0,
    "RTX 2080 Ti": 53.8,
    "RTX 3090": 71.0,
    "RTX 3090 Ti": 80.0,
    "RTX 4090": 165.0,
    "RTX 5090": 209.5,
    "T4": 65.0,
    "V100": 125.0,
}


def peak_tflops(name: str) -> float | None:
    """The peak of the card that a driver or a vendor calls `name`; None where it is not known.

    >>> peak_tflops("NVIDIA H100 80GB HBM3"), peak_tflops("NVIDIA H100 PCIe")
    (989.0, 756.0)
    >>> peak_tflops("Tesla T4"), peak_tflops("NVIDIA A100-SXM4-40GB MIG 1g.5gb")
    (65.0, None)
    """
    words = set(re.split(r"[\s-]+", name))
    if "MIG" in words:  # a slice of a card
        return None
    known = [entry for entry in PEAK_TFLOPS if set(entry.split()) <= words]
    return PEAK_TFLOPS[max(known, key=lambda entry: len(entry.split()))] if known else None
