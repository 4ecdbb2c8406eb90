"""In which order documents are laid end to end, and how often each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from teenytinyllama.recipe import PackSettings


def order_documents(
    num_tokens: NDArray[np.int64],
    sources: Sequence[str],
    settings: PackSettings,
    *,
    is_train: bool,
) -> NDArray[np.int64]:
    """Indices of documents in packing order: a seeded shuffle.

    The seed and the documents decide it alone, so the same recipe gives the same bytes.
    """
    generator = np.random.Generator(np.random.Philox(key=settings.seed))
    return generator.permutation(len(num_tokens))
