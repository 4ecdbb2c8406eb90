"""What a GGUF file holds, and that llama.cpp reads it as we read the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.small_run import TEXTS
from transformers import AutoModelForCausalLM

from teenytinyllama.artifacts.conversations import Message
from teenytinyllama.artifacts.tokenizer import load_tokenizer
from teenytinyllama.stages.interface import StageResult
from teenytinyllama.stages.quantize.gguf_writer import interleave_rotary_rows


def test_file_holds_the_sentencepiece_vocabulary(
    quantized: tuple[Path, StageResult], run_dir: Path
) -> None:
    reader = gguf.GGUFReader(quantized[0] / "model-q8_0.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    kinds = fields["tokenizer.ggml.token_type"]
    tokens = fields["tokenizer.ggml.tokens"]
    assert tokens[:7] == [
        "<unk>",
        "<s>",
        "</s>",
        "<pad>",
        "<|system|>",
        "<|user|>",
        "<|assistant|>",
    ]
    assert kinds[:7] == [2, 3, 3, 3, 3, 3, 3]  # UNKNOWN, then CONTROL
    assert tokens[7] == "<0x00>" and set(kinds[7:263]) == {6}  # BYTE
    assert kinds[-8:] == [5] * 8 and tokens[-1] == "[PAD7]"  # UNUSED
    scores = fields["tokenizer.ggml.scores"]
    assert scores[263:266] == [0.0, -1.0, -2.0]  # the order of the merges
    assert fields["tokenizer.ggml.bos_token_id"] == 1
    assert fields["tokenizer.ggml.eos_token_id"] == 2
    assert fields["tokenizer.ggml.add_bos_token"] is True
    assert fields["llama.attention.head_count_kv"] == 2
    template = fields["tokenizer.chat_template"]
    assert "generation %}" not in template and template.startswith("{{ bos_token }}")


def test_byte_level_vocabulary_is_written_with_its_merges(
    byte_level_gguf: tuple[Path, Path],
) -> None:
    run_dir, path = byte_level_gguf
    fields = {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}
    assert fields["tokenizer.ggml.model"] == "gpt2"
    assert fields["tokenizer.ggml.pre"] == "qwen2"  # single digits, as our pre-tokenizer splits
    assert "tokenizer.ggml.scores" not in fields
    saved = json.loads((run_dir / "tokenizer" / "tokenizer.json").read_bytes())["model"]["merges"]
    assert fields["tokenizer.ggml.merges"] == [" ".join(pair) for pair in saved]
    assert fields["tokenizer.ggml.token_type"][:8] == [3] * 7 + [1]
    assert fields["tokenizer.ggml.add_space_prefix"] is False


def test_a_model_with_qk_norm_is_a_qwen3_with_its_rows_as_they_are(quantized_qwen3: Path) -> None:
    reader = gguf.GGUFReader(quantized_qwen3 / "quantize" / "model-f16.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "qwen3"
    assert fields["qwen3.attention.key_length"] == 16
    found = {tensor.name: tensor.data for tensor in reader.tensors}
    weights = load_file(quantized_qwen3 / "pretrain" / "final" / "model.safetensors")
    for theirs, ours in (
        ("attn_q", "q_proj"),
        ("attn_q_norm", "q_norm"),
        ("attn_k_norm", "k_norm"),
    ):
        expected = weights[f"model.layers.1.self_attn.{ours}.weight"].numpy()
        assert np.allclose(found[f"blk.1.{theirs}.weight"], expected, rtol=1e-3, atol=1e-6)
    assert found["blk.1.attn_q_norm.weight"].dtype == np.float32


def test_rotary_rows_of_each_head_are_interleaved() -> None:
    weight = np.arange(8, dtype=np.float32)[:, None]  # two heads of size four
    assert interleave_rotary_rows(weight, 2).ravel().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


CONVERSATION: list[Message] = [
    {"role": "system", "content": "Responda com calma."},
    {"role": "user", "content": "Quem mora na floresta?"},
    {"role": "assistant", "content": "A raposa."},
    {"role": "user", "content": "E o pássaro? 🦊 123"},
]


def check_predictions(runtime: Any, model: Any, encoder: Any) -> None:
    """llama.cpp's most likely next token and its log-probability are the model's."""
    for text in TEXTS[:10]:
        ids = encoder.encode_document(text)[:-1][:60]
        with torch.no_grad():
            expected = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        best, log_probability = runtime.next_token(ids)
        assert best == int(expected.argmax())
        assert abs(log_probability - float(expected.max())) < 1e-2


@pytest.mark.slow
def test_llama_cpp_tokenizes_byte_level_text_as_we_do(byte_level_gguf: tuple[Path, Path]) -> None:
    pytest.importorskip("xllamacpp")
    from teenytinyllama.inference.llama_cpp import LlamaCppRuntime

    encoder = load_tokenizer(byte_level_gguf[0] / "tokenizer")
    signs = [
        "",
        " ",
        "  dois",
        "Ação!",
        "日本",
        "🦊🇧🇷",
        "3,14",
        "\n\n",
        "a\tb",
        "</s>",
        "d'água 's",
        "\xa0x",
    ]
    with LlamaCppRuntime(byte_level_gguf[1], context=64) as runtime:
        for text in [f"{sign}{text}{sign}" for sign in signs for text in TEXTS[:10]]:
            assert runtime.tokenize(text) == encoder.encode(text), text
        rendered = runtime.render(CONVERSATION)
        assert rendered == encoder.render(CONVERSATION, add_generation_prompt=True)


@pytest.mark.slow
def test_llama_cpp_predicts_as_the_original_model(
    quantized: tuple[Path, StageResult], run_dir: Path
) -> None:
    pytest.importorskip("xllamacpp")
    from teenytinyllama.inference.llama_cpp import LlamaCppRuntime

    encoder = load_tokenizer(run_dir / "tokenizer")
    signs = [
        "",
        " ",
        "  dois",
        "Ação!",
        "ñandú",
        "日本",
        "🦊🇧🇷",
        "3,14",
        "\n\n",
        "a\tb",
        "</s>",
        "é\u0301",
    ]
    texts = [f"{sign}{text}{sign}" for sign in signs for text in TEXTS[:25]]
    assert len(texts) == 300
    with LlamaCppRuntime(quantized[0] / "model-f16.gguf", context=64) as runtime:
        for text in texts:
            assert runtime.tokenize(text) == encoder.encode(text), text
        rendered = runtime.render(CONVERSATION)
        assert rendered == encoder.render(CONVERSATION, add_generation_prompt=True)
        model = AutoModelForCausalLM.from_pretrained(run_dir / "pretrain" / "final").eval()
        check_predictions(runtime, model, encoder)


@pytest.mark.slow
def test_llama_cpp_predicts_as_a_model_with_qk_norm(quantized_qwen3: Path) -> None:
    pytest.importorskip("xllamacpp")
    from teenytinyllama.inference.llama_cpp import LlamaCppRuntime

    encoder = load_tokenizer(quantized_qwen3 / "tokenizer")
    model = AutoModelForCausalLM.from_pretrained(quantized_qwen3 / "pretrain" / "final").eval()
    path = quantized_qwen3 / "quantize" / "model-f16.gguf"
    with LlamaCppRuntime(path, context=64) as runtime:
        check_predictions(runtime, model, encoder)
