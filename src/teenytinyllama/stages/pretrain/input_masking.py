"""Inputs hidden at random: the model must predict a token from what is left of those before it.

After "What makes diffusion language models super data learners" (arXiv 2510.04071): most of what
diffusion models gain with little data is the noise in their inputs, and other models gain from
it as well. A hidden token is read as `<unk>`; what is to be predicted stays. Which tokens are
hidden is a function of (seed, step, sequence, place): no micro-batch, rank or resume changes it.
"""

# B sequences of a batch, T tokens of each

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from teenytinyllama.training.data_order import key_of, mix

MASK_KEY = 0x6D61736B


def mask_inputs(
    ids: NDArray[np.int64],
    rows: NDArray[np.int64],
    share: float,
    *,
    mask_id: int,
    kept_id: int,
    step: int,
    seed: int,
) -> NDArray[np.int64]:
    """A copy of `ids` (B, T) with about `share` of the tokens replaced, never `kept_id` (BOS)."""
    with np.errstate(over="ignore"):
        keys = mix(key_of(seed ^ MASK_KEY, step + 1) + rows.astype(np.uint64))  # (B,)
        draws = mix(keys[:, None] + np.arange(1, ids.shape[1] + 1, dtype=np.uint64))  # (B, T)
    hidden = (draws >> np.uint64(11)).astype(np.float64) * 2.0**-53 < share
    return np.where(hidden & (ids != kept_id), mask_id, ids)
