"""Import a stage without the part of its libraries that no stage uses.

Nearly all of the time from `ttl pretrain` to the first step is imports. Measured in five pairs on
two busy CPU cores, importing the pretrain stage takes 3.2 s this way, 4.2 s where scikit-learn and
scipy are not hidden, and 6.2 s where the garbage collector runs too (`bench/start_up.py`).
"""

from __future__ import annotations

import gc
import importlib
import sys
from types import ModuleType

# transformers imports them where they are installed: scikit-learn for a ROC curve in assisted
# generation, scipy for losses of object detection.
UNUSED_BY_STAGES = ("sklearn", "scipy")


def load_stage(module: str, *, loads_model: bool) -> ModuleType:
    """Import the module of a stage; with `loads_model`, transformers' Llama before it.

    The garbage collector is off meanwhile: it would visit all imported modules again and again,
    and they are not garbage. Afterwards `gc.freeze` keeps it from visiting them.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        if loads_model:
            _load_llama()
        return importlib.import_module(module)
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


def _load_llama() -> None:
    """Import transformers' Llama as if `UNUSED_BY_STAGES` were not installed.

    transformers has no switch for it. None in `sys.modules` means "not installed" to an import;
    it is taken out again, so that whoever needs these libraries later finds them.
    """
    hidden = [name for name in UNUSED_BY_STAGES if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        importlib.import_module("transformers.models.llama.modeling_llama")
    finally:
        for name in hidden:
            del sys.modules[name]
