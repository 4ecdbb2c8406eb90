"""K-quants (Q4_K, Q6_K), encoded by llama.cpp's own library.

The Python package `gguf` reads K-quants but does not write them; the search for the best scales is
C code in llama.cpp. We call one function of it, on one tensor at a time.
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

QuantType = gguf.GGMLQuantizationType
# llama.cpp's choice for a tensor whose rows are not a multiple of 256.
FALLBACKS = {QuantType.Q4_K: QuantType.Q5_0, QuantType.Q6_K: QuantType.Q8_0}


def q4_k_m_type(name: str, shape: tuple[int, ...], num_layers: int, *, is_output: bool) -> Any:
    """The type of one tensor in llama.cpp's mixture `Q4_K_M`: more bits where they help most.

    Six bits for the output matrix, and for the value and down projections of the first and last
    eighth of the layers and of every third layer between.
    """
    wanted = QuantType.Q4_K
    if is_output:
        wanted = QuantType.Q6_K
    elif name.endswith(("self_attn.v_proj.weight", "mlp.down_proj.weight")):
        layer = int(name.split(".")[2])
        eighth = num_layers // 8
        if layer < eighth or layer >= 7 * num_layers // 8 or (layer - eighth) % 3 == 2:
            wanted = QuantType.Q6_K
    block = gguf.GGML_QUANT_SIZES[wanted][0]
    return FALLBACKS[wanted] if shape[-1] % block else wanted


def encode_k_quant(weight: NDArray[np.float32], quant_type: Any) -> NDArray[np.uint8]:
    """One matrix as Q4_K or Q6_K. Raises UserError where llama.cpp is not installed."""
    library = load_library()
    source = np.ascontiguousarray(weight, dtype=np.float32)
    stored = np.zeros(gguf.quant_shape_to_byte_shape(source.shape, quant_type), dtype=np.uint8)
    written = library.ggml_quantize_chunk(
        int(quant_type),
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
def load_library() -> Any:
    """llama.cpp's library from `xllamacpp` or `llama-cpp-python`.

    Raises UserError naming the extra where neither is installed.
    """
    for package, pattern in (("xllamacpp", "xllamacpp*.so"), ("llama_cpp", "lib/libggml-base*")):
        found = importlib.util.find_spec(package)
        for folder in found.submodule_search_locations or () if found else ():
            for path in sorted(Path(folder).glob(pattern)):
                return _declare(ctypes.CDLL(str(path)))
    raise missing_extra("xllamacpp", "llama-cpp")


def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    encode = library.ggml_quantize_chunk
    encode.restype = ctypes.c_size_t
    pointer, int64 = ctypes.c_void_p, ctypes.c_int64
    encode.argtypes = [ctypes.c_int, pointer, pointer, int64, int64, int64, pointer]
    return library
