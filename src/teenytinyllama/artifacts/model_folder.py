"""Checks of an untrusted model folder before anything in it is loaded.

Weights must be safetensors, whose header is checked here; nothing is unpickled. Code in the folder
(`auto_map`) is never run, and files that it names must be inside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any

from teenytinyllama.errors import UserError
from teenytinyllama.regular_files import check_regular, open_regular

ADAPTER_NAME = "adapter_config.json"
INDEX_NAME = "model.safetensors.index.json"
PICKLED_SUFFIXES = (
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".pkl",
    ".pickle",
    ".npz",
    ".joblib",
    ".msgpack",
)
CODE_SUFFIXES = (".py", ".pyc", ".so", ".dll", ".dylib", ".sh")
# Keys that make a loader download or run code.
CODE_KEYS = ("auto_map", "custom_pipelines", "trust_remote_code")
MAX_HEADER_BYTES = 100 << 20  # the limit of the safetensors library itself
MAX_JSON_BYTES = 64 << 20
LAYER_KEYS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")
WIDTH_KEYS = ("hidden_size", "n_embd", "vocab_size", "intermediate_size", "num_attention_heads")
POSITION_KEYS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")
SIZE_KEYS = (*LAYER_KEYS, *WIDTH_KEYS, *POSITION_KEYS, "num_key_value_heads", "head_dim")
# Their values may name a repository of the Hub, whose compiled code is then loaded.
KERNEL_KEYS = ("attn_implementation", "_attn_implementation", "experts_implementation")
MAX_LABELS = 1 << 17
MAX_LAYERS, MAX_POSITIONS = 10_000, 1 << 24
"""The longest contexts that are published have 10 million positions."""
_TYPES_OF_WIDTH = {
    8: ("F64", "I64", "U64"),
    4: ("F32", "I32", "U32"),
    2: ("F16", "BF16", "I16", "U16"),
    1: ("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2"),
}
BYTES_PER_ITEM = {name: width for width, names in _TYPES_OF_WIDTH.items() for name in names}


def check_model_folder(folder: Path) -> None:
    """Raise UserError, with file and reason, for a model folder that must not be loaded."""
    for path in sorted(folder.iterdir()):
        if path.exists() and not path.is_dir():
            check_regular(path)
    for path in sorted(folder.glob("*.json")):
        check_no_code(path)
    weights = sorted(folder.glob("*.safetensors"))
    pickled = [path for path in sorted(folder.iterdir()) if path.suffix in PICKLED_SUFFIXES]
    if pickled and not weights:
        raise _unsafe(pickled[0], "is pickled: loading it can run any code")
    check_sizes(folder)
    if (folder / ADAPTER_NAME).is_file():
        raise _unsafe(folder / ADAPTER_NAME, "makes a loader look for a base model elsewhere")
    index = folder / INDEX_NAME
    if index.is_file():
        for name in indexed_files(index):
            if not (folder / name).is_file():
                raise _damaged(index, f"names {name!r}, which is not in its folder")


def check_sizes(folder: Path) -> None:
    """Raise UserError where a configuration asks for more than the weights beside it can fill.

    A model is built before its weights are read: one number could take all memory. Code of the Hub
    is refused too.
    """
    path = folder / "config.json"
    headers = [read_safetensors_header(path) for path in sorted(folder.glob("*.safetensors"))]
    if not path.is_file():
        return
    found = read_json(path)
    if not isinstance(found, Mapping):
        raise _damaged(path, f"is no object but {type(found).__name__}")
    if "quantization_config" not in found:
        _check_float_weights(folder, headers)
    tensors = [found for header in headers for name, found in header.items() if name[:1] != "_"]
    waiting = [found]
    while waiting:
        part = waiting.pop()
        waiting += [value for value in part.values() if isinstance(value, Mapping)]
        for name in KERNEL_KEYS:
            if "/" in json.dumps(part.get(name)):
                raise _unsafe(path, f"names code of the Hub as its {name}")
        _check_numbers(path, {k: v for k, v in part.items() if type(v) is int}, tensors)


def _check_numbers(
    path: Path, sizes: Mapping[str, int], tensors: Sequence[Mapping[str, Any]]
) -> None:
    # Quantized weights take 1 bit at least.
    most = 8 * sum(end - start for start, end in (found["data_offsets"] for found in tensors))
    for name, value in sizes.items():
        if value < 1 and name in SIZE_KEYS:
            raise _damaged(path, f"asks for {name} = {value:,}, expected 1 or more")
        limit = MAX_POSITIONS
        if name in LAYER_KEYS:
            limit = len(tensors) if tensors else MAX_LAYERS
        elif name in WIDTH_KEYS and tensors:
            limit = most // max(min(sizes.get("hidden_size", 1), most), 1)
        elif name == "num_labels":  # each gets a name
            limit = MAX_LABELS
        elif name not in (*POSITION_KEYS, *WIDTH_KEYS):
            limit = 2**53
        if value > limit:
            is_of_weights = tensors and name in (*LAYER_KEYS, *WIDTH_KEYS)
            which = "fit the weights" if is_of_weights else "are possible"
            raise _damaged(path, f"asks for {name} = {value:,}, at most {limit:,} {which}")


def _check_float_weights(folder: Path, headers: Sequence[Mapping[str, Any]]) -> None:
    """Raise UserError for matrices of whole numbers: read as weights, they would make no sense."""
    for header in headers:
        for name, tensor in header.items():
            dtype = str(tensor.get("dtype", ""))
            if name.endswith(".weight") and dtype[:1] in ("I", "U", "B") and dtype != "BF16":
                raise _damaged(folder, f"has {dtype} numbers as {name}, expected floats")


def check_no_code(path: Path) -> None:
    """Raise UserError for a JSON file that is invalid, or makes its loader run code."""
    keys = set(_keys(read_json(path)))
    for key in CODE_KEYS:
        if key in keys:
            raise _unsafe(path, f'has "{key}", which makes a loader run code of the folder')


def read_json(path: Path) -> Any:
    """The value of a JSON file of limited size and depth. Raises UserError for any other."""
    check_regular(path)
    if path.stat().st_size > MAX_JSON_BYTES:
        raise _damaged(path, f"has {path.stat().st_size:,} bytes, limit {MAX_JSON_BYTES:,}")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"is not JSON ({error})") from error


def indexed_files(index: Path) -> list[str]:
    """The weight files that an index names. Raises UserError for one outside its folder."""
    found = read_json(index)
    names = found.get("weight_map") if isinstance(found, Mapping) else None
    if not isinstance(names, Mapping):
        raise _damaged(index, "has no weight_map")
    for name in names.values():
        if not isinstance(name, str) or not is_plain_name(name):
            raise _unsafe(index, f"names {name!r}, which is not a file of its folder")
    return sorted(set(names.values()))


def is_plain_name(name: str) -> bool:
    r"""Whether a name is a relative path that stays inside its folder.

    >>> [is_plain_name(n) for n in ("a/b.bin", "../a", "/a", "a\\b", "C:x", "a/./b", "")]
    [True, False, False, False, False, False, False]
    """
    parts = name.split("/")
    plain = not PurePosixPath(name).is_absolute() and not {"", ".", ".."} & set(parts)
    return plain and name.isprintable() and not {"\\", ":"} & set(name)


def read_safetensors_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file, by tensor name, with `__metadata__`.

    Raises UserError where its length, JSON, or a tensor's type, shape or offsets are wrong.
    """
    size = path.stat().st_size
    with open_regular(path) as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
            raise _damaged(path, f"claims a header of {length:,} bytes, the file has {size:,}")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise _damaged(path, "has a header that is not JSON") from error
    if not isinstance(header, dict):
        raise _damaged(path, "has a header that is not an object")
    for name, found in header.items():
        if name != "__metadata__" and not _fits(found, size - 8 - length):
            raise _damaged(path, f"has wrong offsets for {name[:80]!r}")
    return header


def _fits(found: Any, num_bytes: int) -> bool:
    """Whether the size of a tensor's type and shape equals that of its offsets."""
    try:
        start, end = found["data_offsets"]
        shape, width = found["shape"], BYTES_PER_ITEM[found["dtype"]]
        plain = all(type(n) is int and n >= 0 for n in (start, end, *shape))
        return plain and start <= end <= num_bytes and prod(shape) * width == end - start
    except (KeyError, TypeError, ValueError):
        return False


def _keys(value: Any) -> Iterator[str]:
    rest = [value]
    while rest:
        here = rest.pop()
        if isinstance(here, Mapping):
            yield from here
            rest += here.values()
        elif isinstance(here, list):
            rest += here


def _damaged(path: Path, what: str) -> UserError:
    what = f"cannot be loaded: it {what}"
    return UserError("model-damaged", str(path), what, "save or download it again")


def _unsafe(path: Path, what: str) -> UserError:
    fix = "save it as safetensors with `save_pretrained`, without code of its own"
    return UserError("model-unsafe", str(path), what, fix)
