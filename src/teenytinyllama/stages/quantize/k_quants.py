"""K-quants (Q4_K, Q6_K): encoded by llama.cpp's own library where it is installed.

The Python package `gguf` reads K-quants and does not write them; the search for the best scales is
in llama.cpp's C code. One function of it is called, on one tensor at a time.
"""

from __future__ import annotations

import ctypes
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from teenytinyllama.errors import missing_extra

Kind = gguf.GGMLQuantizationType
# What a tensor gets whose rows are no multiple of 256, as llama.cpp chooses.
INSTEAD = {Kind.Q4_K: Kind.Q5_0, Kind.Q6_K: Kind.Q8_0}


def q4_k_m_kind(name: str, shape: tuple[int, ...], num_layers: int, *, is_output: bool) -> Any:
    """llama.cpp's mixture `Q4_K_M`: more bits where they help most.

    The output matrix gets six bits, and so do values and down projections of the first and last
    eighth of the layers and of every third between.
    """
    wanted = Kind.Q4_K
    if is_output:
        wanted = Kind.Q6_K
    elif name.endswith(("self_attn.v_proj.weight", "mlp.down_proj.weight")):
        layer = int(name.split(".")[2])
        eighth = num_layers // 8
        if layer < eighth or layer >= 7 * num_layers // 8 or (layer - eighth) % 3 == 2:
            wanted = Kind.Q6_K
    block = gguf.GGML_QUANT_SIZES[wanted][0]
    return INSTEAD[wanted] if shape[-1] % block else wanted


def encode_k_quant(weight: NDArray[np.float32], kind: Any) -> NDArray[np.uint8]:
    """One matrix as Q4_K or Q6_K. Raises UserError where llama.cpp is not installed."""
    library = _library()
    source = np.ascontiguousarray(weight, dtype=np.float32)
    stored = np.zeros(gguf.quant_shape_to_byte_shape(source.shape, kind), dtype=np.uint8)
    written = library.ggml_quantize_chunk(
        int(kind),
        source.ctypes.data_as(ctypes.c_void_p),
        stored.ctypes.data_as(ctypes.c_void_p),
        0,
        source.shape[0],
        source.shape[1],
        None,  # no importance matrix
    )
    assert written == stored.nbytes, f"llama.cpp wrote {written} bytes, expected {stored.nbytes}"
    return stored


@cache
def _library() -> Any:
    """llama.cpp's shared library from `xllamacpp` or `llama-cpp-python`, whichever is there."""
    for package, pattern in (("xllamacpp", "xllamacpp*.so"), ("llama_cpp", "lib/libggml-base*")):
        found = importlib.util.find_spec(package)
        for folder in found.submodule_search_locations or () if found else ():
            for path in sorted(Path(folder).glob(pattern)):
                return _declare(ctypes.CDLL(str(path)))
    raise missing_extra("xllamacpp", "llama-cpp")


def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    encode = library.ggml_quantize_chunk
    encode.restype = ctypes.c_size_t
    encode.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
    ]
    return library


def check_installed() -> None:
    """Raise UserError, naming the extra, where llama.cpp's library is not installed."""
    _library()
