"""Tensors into a safetensors file that is hashed while it is written, and on the disk afterwards.

The library's own `save_file` copies every tensor and leaves bytes in the kernel's hands; whoever
wants them synced and vouched for reads all of them again. Here each tensor goes from its own
memory to the file while a second thread hashes that same memory. So the hash stands for what the
training held, not for what came back from the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from teenytinyllama.artifacts.manifest import Output

# Names of the format (https://github.com/huggingface/safetensors, "Format").
DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
ALIGNMENT_BYTES = 8
FLUSH_BYTES = 16 * 1024 * 1024


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> Output:
    """Write `tensors` to `path`, sync it, and return its size and SHA-256.

    Views of one storage (tied weights) are kept once, under the first name. The same tensors make
    the same bytes. Raises OSError where the disk is full, KeyError for a dtype without a name.
    """
    plain = _without_twins(tensors)
    # Wide elements first, as the library has it: then every tensor is aligned to its own width.
    names = sorted(plain, key=lambda name: (-plain[name].element_size(), name))
    header = _header({name: plain[name] for name in names})
    digest = hashlib.sha256(header)
    # Closed in the order file, pool: an error in a write still lets the thread end.
    with ThreadPoolExecutor(1) as pool, path.open("wb") as file:
        file.write(header)
        hashed, begun = [], 0
        for name in names:
            row = plain[name].detach().contiguous().cpu().reshape(-1).view(torch.uint8)
            memory = row.numpy().data
            hashed.append(pool.submit(digest.update, memory))
            file.write(memory)
            if file.tell() - begun >= FLUSH_BYTES and hasattr(os, "posix_fadvise"):
                # Linux then begins to write these bytes, while the rest is still on its way.
                os.posix_fadvise(file.fileno(), begun, 0, os.POSIX_FADV_DONTNEED)
                begun = file.tell()
        file.flush()
        os.fsync(file.fileno())
        size = file.tell()
        for done in hashed:
            done.result()
    return Output(bytes=size, sha256=digest.hexdigest())


def _without_twins(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    seen: set[tuple[int, int]] = set()
    plain = {}
    for name, tensor in tensors.items():
        place = (tensor.data_ptr(), tensor.numel())
        if tensor.numel() > 1 and place in seen:
            continue
        seen.add(place)
        plain[name] = tensor
    return plain


def _header(tensors: Mapping[str, Tensor]) -> bytes:
    """Eight bytes of length, then the JSON that says where each tensor lies."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        entries[name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % ALIGNMENT_BYTES)
    return len(text).to_bytes(8, "little") + text
