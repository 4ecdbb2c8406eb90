"""Load a stage's libraries without what they bring along for nothing.

Nearly all of the time from `ttl pretrain` to the first step is imports: of torch, and of the one
model class of transformers, which brings half of scipy. `bench/start_up.py` measures it.
"""

from __future__ import annotations

import gc
import importlib
import sys
from types import ModuleType

# What transformers imports where it is installed, and what for: scikit-learn for the ROC curve
# by which assisted generation adapts how far it drafts, scipy for losses of object detection.
SERVES_NO_STAGE = ("sklearn", "scipy")


def load_stage(module: str, *, loads_model: bool) -> ModuleType:
    """Import the module of a stage; with `loads_model`, the Llama of transformers before it.

    The garbage collector rests meanwhile: it would walk through every module again and again, and
    modules are not garbage. Afterwards it is told not to look at them any more.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        if loads_model:
            _load_llama()
        return importlib.import_module(module)
    finally:
        gc.freeze()
        if collects:
            gc.enable()


def _load_llama() -> None:
    """Import the model's class while `SERVES_NO_STAGE` seems not to be installed.

    Whoever imports those libraries by name afterwards finds them.
    """
    hidden = [name for name in SERVES_NO_STAGE if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        importlib.import_module("transformers.models.llama.modeling_llama")
    finally:
        for name in hidden:
            del sys.modules[name]
