"""Write a GGUF file, as llama.cpp, Ollama and LM Studio read it, straight from a model folder.

No llama.cpp checkout is needed. What has to be right, and is silent when it is not: the order of
rows in the query and key matrices (llama.cpp turns neighbouring pairs, Hugging Face halves), the
scores of the tokens, the kinds of the special tokens, one BOS and not two, the end of a turn.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from teenytinyllama.artifacts.conversations import (
    BOS,
    CHAT_TEMPLATE,
    EOS,
    PAD,
    SPECIAL_IDS,
    UNK,
)
from teenytinyllama.artifacts.manifest import sync_folder
from teenytinyllama.artifacts.subword_tokenizer import PRE_TOKENIZER_NAME
from teenytinyllama.artifacts.vocabulary import TokenKind, Vocabulary, check_fits
from teenytinyllama.errors import UserError
from teenytinyllama.progress import Progress
from teenytinyllama.stages.quantize.k_quants import encode_k_quant, q4_k_m_kind
from teenytinyllama.stages.quantize.tensor_reader import LAYER, Array, ModelFolder

Kind = gguf.GGMLQuantizationType
FILE_TYPES = {
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
    "q4_k_m": gguf.LlamaFileType.MOSTLY_Q4_K_M,
}
K_QUANTS = (Kind.Q4_K, Kind.Q6_K)
MAX_FLOAT16 = 65_504.0
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OTHER_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}


def gguf_name(name: str) -> str:
    """llama.cpp's name of a tensor.

    >>> gguf_name("model.layers.3.self_attn.q_proj.weight"), gguf_name("lm_head.weight")
    ('blk.3.attn_q.weight', 'output.weight')
    """
    stem = name.removesuffix(".weight")
    found = re.fullmatch(re.escape(LAYER).replace(r"\{\}", r"(\d+)") + "(.+)", stem)
    if found:
        return f"blk.{found[1]}.{LAYER_NAMES[found[2]]}.weight"
    return OTHER_NAMES[stem] + ".weight"


def interleave_rotary_rows(weight: Array, num_heads: int) -> Array:
    """Rows of a query or key matrix in llama.cpp's order: row pairs (i, i + D/2) side by side.

    >>> interleave_rotary_rows(np.arange(4, dtype=np.float32)[:, None], 1).ravel().tolist()
    [0.0, 2.0, 1.0, 3.0]
    """
    half = weight.shape[0] // num_heads // 2
    return np.ascontiguousarray(
        weight.reshape(num_heads, 2, half, -1).swapaxes(1, 2).reshape(weight.shape)
    )


def storage_kinds(model: ModelFolder, file_format: str) -> dict[str, Any]:
    """How each tensor is stored: gains in fp32, the output matrix never below 6 bits."""
    tied = bool(model.config.get("tie_word_embeddings", False))
    output = "model.embed_tokens.weight" if tied else "lm_head.weight"
    kinds: dict[str, Any] = {}
    for name, shape in model.shapes().items():
        if len(shape) == 1:
            kinds[name] = Kind.F32
        elif file_format == "q4_k_m":
            num_layers = model.config["num_hidden_layers"]
            kinds[name] = q4_k_m_kind(name, shape, num_layers, is_output=name == output)
        elif file_format == "q4_0":
            kinds[name] = Kind.Q8_0 if name == output else Kind.Q4_0
        else:
            kinds[name] = {"f16": Kind.F16, "q8_0": Kind.Q8_0}[file_format]
    return kinds


def encode_tensor(name: str, weight: Array, kind: Any) -> NDArray[Any]:
    """The stored form of one tensor. Raises UserError where it cannot be stored like that."""
    block = gguf.GGML_QUANT_SIZES[kind][0]
    if weight.shape[-1] % block:
        what = f"its rows have {weight.shape[-1]} values, {kind.name} packs {block} at a time"
        raise UserError("quantize-shape", name, what, 'quantize.formats = ["f16"]')
    if kind == Kind.F16 and np.abs(weight).max() > MAX_FLOAT16:
        what = f"holds {np.abs(weight).max():.3g}, float16 ends at {MAX_FLOAT16:,.0f}"
        raise UserError("weights-too-large", name, what, "train with weight decay, or use bf16")
    if kind in K_QUANTS:
        return encode_k_quant(weight, kind)
    stored: NDArray[Any] = gguf.quants.quantize(weight, kind)
    return stored


def write_gguf(
    model: ModelFolder,
    vocabulary: Vocabulary,
    file_format: str,
    path: Path,
    *,
    title: str,
    answers: bool = True,
) -> None:
    """Write the model as one GGUF file, at its final name only when it is whole.

    The file of a base model, which never saw a turn, has no chat template: `answers` is false.

    Memory holds one tensor at a time. Equal input gives equal bytes.
    """
    shapes = model.shapes()
    kinds = storage_kinds(model, file_format)
    temporary = path.with_name(f".{path.name}.part")
    writer = gguf.GGUFWriter(temporary, "llama")
    _add_sizes(writer, model, title)
    writer.add_file_type(FILE_TYPES[file_format])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    check_vocabulary(model, vocabulary)
    _add_tokenizer(writer, model, vocabulary)
    if answers:
        writer.add_chat_template(runtime_chat_template())
    for name, shape in shapes.items():
        _declare(writer, name, shape, kinds[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    heads = {
        "q_proj": model.config["num_attention_heads"],
        "k_proj": model.num_key_value_heads,
    }
    try:
        with Progress(f"quantize: write {path.name}", total=len(shapes), unit="tensors") as work:
            for name, kind in kinds.items():
                weight = model.tensor(name)
                part = name.split(".")[-2]
                if part in heads:
                    weight = interleave_rotary_rows(weight, heads[part])
                writer.write_tensor_data(encode_tensor(name, weight, kind))
                work.advance()
        writer.close()
    except BaseException:
        writer.close()
        temporary.unlink(missing_ok=True)
        raise
    temporary.replace(path)
    sync_folder(path.parent)


def _declare(writer: Any, name: str, shape: tuple[int, ...], kind: Any) -> None:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    if shape[-1] % block:
        encode_tensor(name, np.zeros((1, shape[-1]), np.float32), kind)  # raises, says why
    num_bytes = int(np.prod(shape)) // block * size
    if kind in (Kind.F32, Kind.F16):
        dtype = np.dtype(np.float32 if kind == Kind.F32 else np.float16)
        writer.add_tensor_info(gguf_name(name), shape, dtype, num_bytes)
    else:
        stored = gguf.quant_shape_to_byte_shape(shape, kind)
        writer.add_tensor_info(gguf_name(name), stored, np.dtype(np.uint8), num_bytes, kind)


def _add_sizes(writer: Any, model: ModelFolder, title: str) -> None:
    c = model.config
    writer.add_name(title)
    writer.add_vocab_size(c["vocab_size"])
    writer.add_context_length(c["max_position_embeddings"])
    writer.add_embedding_length(c["hidden_size"])
    writer.add_block_count(c["num_hidden_layers"])
    writer.add_feed_forward_length(c["intermediate_size"])
    writer.add_head_count(c["num_attention_heads"])
    writer.add_head_count_kv(model.num_key_value_heads)
    writer.add_layer_norm_rms_eps(c["rms_norm_eps"])
    writer.add_rope_dimension_count(model.head_size)
    writer.add_key_length(model.head_size)
    writer.add_value_length(model.head_size)
    rope = c.get("rope_parameters") or c.get("rope_scaling") or {}
    writer.add_rope_freq_base(float(rope.get("rope_theta", c.get("rope_theta", 10_000.0))))
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))
    elif kind != "default":
        what = f'rope_type is "{kind}", only "default" and "linear" are written'
        raise UserError("model-unsupported", str(model.folder / "config.json"), what, "retrain")


def check_vocabulary(model: ModelFolder, vocabulary: Vocabulary) -> None:
    """Raise UserError where the vocabulary is another model's, or none that GGUF can hold."""
    check_fits(vocabulary, model.config["vocab_size"], model.folder)
    if vocabulary.model == "unigram":
        raise UserError(
            "tokenizer-not-bpe",
            str(model.folder),
            "llama.cpp merges the tokens of a Llama by score (BPE), this vocabulary is unigram",
            'tokenizer.model = "bpe"',
        )


def _add_tokenizer(writer: Any, model: ModelFolder, vocabulary: Vocabulary) -> None:
    num_missing = model.config["vocab_size"] - len(vocabulary.tokens)
    tokens = vocabulary.tokens
    is_byte_level = vocabulary.model == "byte-level"
    writer.add_tokenizer_model("gpt2" if is_byte_level else "llama")
    writer.add_tokenizer_pre(PRE_TOKENIZER_NAME if is_byte_level else "default")
    writer.add_token_list(
        [t.text.encode("utf-8") for t in tokens]
        + [f"[PAD{index}]".encode() for index in range(num_missing)]
    )
    if is_byte_level:
        writer.add_token_merges(vocabulary.merges)
    else:
        writer.add_token_scores([t.score for t in tokens] + [-1e4] * num_missing)
    writer.add_token_types([int(t.kind) for t in tokens] + [int(TokenKind.UNUSED)] * num_missing)
    writer.add_bos_token_id(SPECIAL_IDS[BOS])
    writer.add_eos_token_id(SPECIAL_IDS[EOS])  # ends a document, and every turn of a conversation
    writer.add_unk_token_id(SPECIAL_IDS[UNK])
    writer.add_pad_token_id(SPECIAL_IDS[PAD])
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(not is_byte_level)


def runtime_chat_template() -> str:
    """Our template without the marks of what is learnt, which are for training only.

    BOS stays: llama.cpp takes it away where it writes one itself (`add_bos_token`), and
    llama-cpp-python counts on it.
    """
    return re.sub(r"\{% (end)?generation %\}", "", CHAT_TEMPLATE)
