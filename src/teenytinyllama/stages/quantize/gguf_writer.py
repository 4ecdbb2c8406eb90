"""Write a GGUF file, for llama.cpp, Ollama and LM Studio, from a model folder.

No llama.cpp checkout is needed. llama.cpp would not notice an error in these: the order of rows in
a Llama's query and key matrices (it rotates neighbouring pairs, Hugging Face halves, and so does
llama.cpp with a Qwen3), the scores of the
tokens, the kinds of the special tokens, one BOS and not two, and the end-of-turn token.
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
from teenytinyllama.stages.quantize.k_quants import QuantType, encode_k_quant, q4_k_m_type
from teenytinyllama.stages.quantize.tensor_reader import LAYER, Array, TensorReader

FILE_TYPES = {
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
    "q4_k_m": gguf.LlamaFileType.MOSTLY_Q4_K_M,
}
K_QUANTS = (QuantType.Q4_K, QuantType.Q6_K)
MAX_FLOAT16 = 65_504.0
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
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
    """Rows of a query or key matrix in llama.cpp's order: (i, i + D/2) of each head side by side.

    >>> interleave_rotary_rows(np.arange(4, dtype=np.float32)[:, None], 1).ravel().tolist()
    [0.0, 2.0, 1.0, 3.0]
    """
    half = weight.shape[0] // num_heads // 2
    return np.ascontiguousarray(
        weight.reshape(num_heads, 2, half, -1).swapaxes(1, 2).reshape(weight.shape)
    )


def storage_types(model: TensorReader, file_format: str) -> dict[str, Any]:
    """The type of each tensor: norm weights in fp32, the output matrix never below 6 bits."""
    tied = bool(model.config.get("tie_word_embeddings", False))
    output = "model.embed_tokens.weight" if tied else "lm_head.weight"
    num_layers = model.config["num_hidden_layers"]
    plain = {"f16": QuantType.F16, "q8_0": QuantType.Q8_0, "q4_0": QuantType.Q4_0}
    types: dict[str, Any] = {}
    for name, shape in model.shapes().items():
        if len(shape) == 1:
            types[name] = QuantType.F32
        elif file_format == "q4_k_m":
            types[name] = q4_k_m_type(name, shape, num_layers, is_output=name == output)
        elif file_format == "q4_0" and name == output:
            types[name] = QuantType.Q8_0
        else:
            types[name] = plain[file_format]
    return types


def encode_tensor(name: str, weight: Array, quant_type: Any) -> NDArray[Any]:
    """The stored form of one tensor. Raises UserError where it cannot have this type."""
    _check_width(name, weight.shape, quant_type)
    if quant_type == QuantType.F16 and np.abs(weight).max() > MAX_FLOAT16:
        what = f"holds {np.abs(weight).max():.3g}, float16 ends at {MAX_FLOAT16:,.0f}"
        raise UserError("weights-too-large", name, what, "train with weight decay, or use bf16")
    if quant_type in K_QUANTS:
        return encode_k_quant(weight, quant_type)
    stored: NDArray[Any] = gguf.quants.quantize(weight, quant_type)
    return stored


def _check_width(name: str, shape: tuple[int, ...], quant_type: Any) -> None:
    block = gguf.GGML_QUANT_SIZES[quant_type][0]
    if shape[-1] % block:
        what = f"its rows have {shape[-1]} values, {quant_type.name} packs {block} at a time"
        raise UserError("quantize-shape", name, what, 'quantize.formats = ["f16"]')


def write_gguf(
    model: TensorReader,
    vocabulary: Vocabulary,
    file_format: str,
    path: Path,
    *,
    about: gguf.Metadata,
    is_chat: bool = True,
) -> None:
    """Write the model as one GGUF file, which appears at `path` only when it is complete.

    The file of a base model (`is_chat` false) has no chat template. Memory holds one tensor at a
    time. Equal input gives equal bytes.
    """
    check_vocabulary(model, vocabulary)
    types = storage_types(model, file_format)
    temporary = path.with_name(f".{path.name}.part")
    writer = gguf.GGUFWriter(temporary, model.config["model_type"])
    writer.add_type(gguf.GGUFType.MODEL)
    about.set_gguf_meta_model(writer)
    if about.datasets:
        references = [one.get("url", one["name"]) for one in about.datasets]
        writer.add_array("general.datasets", references)  # in the specification, not in `gguf`
    _add_sizes(writer, model)
    writer.add_file_type(FILE_TYPES[file_format])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_tokenizer(writer, model, vocabulary)
    if is_chat:
        writer.add_chat_template(inference_chat_template())
    for name, shape in model.shapes().items():
        _declare_tensor(writer, name, shape, types[name])
    try:
        _write_data(writer, model, types, f"quantize: write {path.name}")
        writer.close()
    except BaseException:
        writer.close()
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(temporary)
    temporary.replace(path)
    sync_folder(path.parent)


def _write_data(writer: Any, model: TensorReader, types: dict[str, Any], title: str) -> None:
    """Header and metadata, then the tensors one by one."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    heads = {"q_proj": model.config["num_attention_heads"], "k_proj": model.num_key_value_heads}
    with Progress(title, total=len(types), unit="tensors") as work:
        for name, quant_type in types.items():
            weight = model.read(name)
            part = name.split(".")[-2]
            if part in heads and not model.has_qk_norm:
                weight = interleave_rotary_rows(weight, heads[part])
            writer.write_tensor_data(encode_tensor(name, weight, quant_type))
            work.advance()


def _declare_tensor(writer: Any, name: str, shape: tuple[int, ...], quant_type: Any) -> None:
    _check_width(name, shape, quant_type)
    block, size = gguf.GGML_QUANT_SIZES[quant_type]
    num_bytes = int(np.prod(shape)) // block * size
    if quant_type in (QuantType.F32, QuantType.F16):
        dtype = np.dtype(np.float32 if quant_type == QuantType.F32 else np.float16)
        writer.add_tensor_info(gguf_name(name), shape, dtype, num_bytes)
    else:
        stored = gguf.quant_shape_to_byte_shape(shape, quant_type)
        writer.add_tensor_info(gguf_name(name), stored, np.dtype(np.uint8), num_bytes, quant_type)


def _add_sizes(writer: Any, model: TensorReader) -> None:
    c = model.config
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


def check_vocabulary(model: TensorReader, vocabulary: Vocabulary) -> None:
    """Raise UserError where the vocabulary is another model's, or GGUF cannot hold it."""
    check_fits(vocabulary, model.config["vocab_size"], model.folder)
    if vocabulary.model == "unigram":
        raise UserError(
            "tokenizer-not-bpe",
            str(model.folder),
            "llama.cpp merges the tokens of a Llama by score (BPE), this vocabulary is unigram",
            'tokenizer.model = "bpe"',
        )


def _add_tokenizer(writer: Any, model: TensorReader, vocabulary: Vocabulary) -> None:
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


def inference_chat_template() -> str:
    """Our template without the generation marks, which only training needs.

    It keeps BOS: llama-cpp-python relies on it, and llama.cpp removes it where it adds one itself
    (`add_bos_token`).
    """
    return re.sub(r"\{% (end)?generation %\}", "", CHAT_TEMPLATE)
