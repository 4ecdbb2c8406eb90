"""GGUF files: what they hold, that they load back equal, and that wrong input is named."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.small_run import TEXTS, VOCAB_SIZE, make_run
from transformers import LlamaForCausalLM

from teenytinyllama.artifacts.conversations import Message
from teenytinyllama.artifacts.tokenizer import load_tokenizer
from teenytinyllama.energy import EnergyMeter
from teenytinyllama.errors import UserError
from teenytinyllama.settings.base import EnergySettings
from teenytinyllama.settings.post_training import QuantizeSettings
from teenytinyllama.stages.interface import StageContext, StageResult
from teenytinyllama.stages.quantize import awq, gguf_writer, k_quants
from teenytinyllama.stages.quantize import stage as quantize
from teenytinyllama.stages.quantize.gguf_writer import interleave_rotary_rows


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("quantize"))


@pytest.fixture(autouse=True, scope="module")
def without_speed() -> Iterator[None]:
    """llama.cpp's speed is measured in a process of its own: too slow for every test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantize, "_speed", lambda path, model: {})
        yield


def do_quantize(run_dir: Path, out_dir: Path, **settings: object) -> StageResult:
    energy = EnergySettings()
    out_dir.mkdir(exist_ok=True)
    return quantize.run(
        settings=QuantizeSettings(**{"max_sample_tokens": 400, **settings}),
        context=StageContext("test", "pt", energy, EnergyMeter(energy)),
        out_dir=out_dir,
        corpus_dir=run_dir / "corpus",
        tokenizer_dir=run_dir / "tokenizer",
        pretrain_dir=run_dir / "pretrain",
        align_dir=run_dir / "pretrain",  # as if it had learnt to answer
    )


@pytest.fixture(scope="module")
def quantized(run_dir: Path) -> tuple[Path, StageResult]:
    out_dir = run_dir / "quantize"
    return out_dir, do_quantize(run_dir, out_dir, formats=("f16", "q8_0", "q4_0"))


def test_each_file_says_what_it_lost(quantized: tuple[Path, StageResult]) -> None:
    out_dir, outcome = quantized
    assert sorted(path.name for path in out_dir.iterdir()) == [
        "model-f16.gguf",
        "model-q4_0.gguf",
        "model-q8_0.gguf",
    ]
    metrics = outcome.metrics
    for name in ("f16", "q8_0", "q4_0"):
        size = (out_dir / f"model-{name}.gguf").stat().st_size
        assert metrics[name]["size_bytes"] == size
    assert metrics["f16"]["same_best_token"] >= 0.999
    assert metrics["f16"]["max_logit_difference"] < 1e-2
    assert metrics["q8_0"]["max_logit_difference"] < metrics["q4_0"]["max_logit_difference"]
    assert abs(metrics["f16"]["bits_per_byte_increase"]) < 1e-4
    assert outcome.counts["documents_compared"] == 6


def test_the_file_holds_the_tokenizer_as_sentencepiece_has_it(
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
    assert scores[263:266] == [0.0, -1.0, -2.0]  # the order in which pairs are joined
    assert fields["tokenizer.ggml.bos_token_id"] == 1
    assert fields["tokenizer.ggml.eos_token_id"] == 2
    assert fields["tokenizer.ggml.add_bos_token"] is True
    assert fields["llama.attention.head_count_kv"] == 2
    template = fields["tokenizer.chat_template"]
    assert "generation %}" not in template and template.startswith("{{ bos_token }}")


@pytest.fixture(scope="module")
def bytes_gguf(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run with a byte-level vocabulary, and its file."""
    run_dir = make_run(tmp_path_factory.mktemp("bytes"), tokenizer_model="byte-level")
    do_quantize(run_dir, run_dir / "quantize", formats=("f16",))
    return run_dir, run_dir / "quantize" / "model-f16.gguf"


def test_a_byte_level_vocabulary_is_written_with_its_merges(bytes_gguf: tuple[Path, Path]) -> None:
    run_dir, path = bytes_gguf
    fields = {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}
    assert fields["tokenizer.ggml.model"] == "gpt2"
    assert fields["tokenizer.ggml.pre"] == "qwen2"  # digits alone, our way of cutting
    assert "tokenizer.ggml.scores" not in fields
    saved = json.loads((run_dir / "tokenizer" / "tokenizer.json").read_bytes())["model"]["merges"]
    assert fields["tokenizer.ggml.merges"] == [" ".join(pair) for pair in saved]
    assert fields["tokenizer.ggml.token_type"][:8] == [3] * 7 + [1]
    assert fields["tokenizer.ggml.add_space_prefix"] is False


@pytest.mark.slow
def test_llama_cpp_reads_byte_level_text_as_we_do(bytes_gguf: tuple[Path, Path]) -> None:
    pytest.importorskip("xllamacpp")
    from teenytinyllama.stages.quantize.gguf_speed import LlamaCppRuntime

    encoder = load_tokenizer(bytes_gguf[0] / "tokenizer")
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
    with LlamaCppRuntime(bytes_gguf[1], context=64) as runtime:
        for text in [f"{sign}{text}{sign}" for sign in signs for text in TEXTS[:10]]:
            assert runtime.tokenize(text) == encoder.encode(text), text
        rendered = runtime.render(CONVERSATION)
        assert rendered == encoder.render(CONVERSATION, add_generation_prompt=True)


def test_rotary_rows_of_each_head_are_interleaved() -> None:
    weight = np.arange(8, dtype=np.float32)[:, None]  # two heads of size four
    assert interleave_rotary_rows(weight, 2).ravel().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_equal_input_gives_equal_bytes(
    quantized: tuple[Path, StageResult], run_dir: Path, tmp_path: Path
) -> None:
    do_quantize(run_dir, tmp_path, formats=("q8_0",))
    again = (tmp_path / "model-q8_0.gguf").read_bytes()
    assert again == (quantized[0] / "model-q8_0.gguf").read_bytes()


@pytest.mark.parametrize(
    "changes",
    [{"tie_word_embeddings": True}, {"num_key_value_heads": 4}, {"head_dim": 32}],
    ids=["tied", "multi-head", "wide-heads"],
)
def test_other_shapes_load_back_equal(tmp_path: Path, changes: dict) -> None:
    run_dir = make_run(tmp_path, **changes)
    outcome = do_quantize(run_dir, tmp_path / "quantized", formats=("f16",))
    assert outcome.metrics["f16"]["max_logit_difference"] < 1e-2


def test_a_file_that_loses_too_much_is_refused_and_removed(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "losses", lambda original, back: {"bits_per_byte_increase": 0.04})
    with pytest.raises(UserError) as error:
        do_quantize(run_dir, tmp_path, formats=("q4_0",), max_bits_per_byte_increase=0.03)
    assert (error.value.code, error.value.where) == ("quantize-loss", "model-q4_0.gguf")
    assert error.value.what == "bits per byte grow by 4.00%, the recipe allows 3.00%"
    assert list(tmp_path.iterdir()) == []


def broken_run(run_dir: Path, tmp_path: Path) -> Path:
    for name in ("corpus", "tokenizer", "pretrain"):
        shutil.copytree(run_dir / name, tmp_path / name)
    return tmp_path


def change_tensor(run_dir: Path, name: str, change: object) -> None:
    path = run_dir / "pretrain" / "final" / "model.safetensors"
    tensors = load_file(path)
    tensors[name] = change(tensors[name]) if callable(change) else tensors.pop(name)
    if not callable(change):
        del tensors[name]
    save_file({key: value.contiguous() for key, value in tensors.items()}, path)


NORM = "model.norm.weight"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda w: w.index_fill(0, torch.tensor([3]), float("nan")), "weights-not-finite"),
        (lambda w: w.index_fill(0, torch.tensor([3]), float("inf")), "weights-not-finite"),
        (lambda w: w[:-1], "weights-shape"),
        (None, "weights-missing"),
    ],
)
def test_weights_that_cannot_be_right_are_named(
    run_dir: Path, tmp_path: Path, change: object, code: str
) -> None:
    broken = broken_run(run_dir, tmp_path)
    change_tensor(broken, NORM, change)
    with pytest.raises(UserError) as error:
        gguf_writer.write_gguf(
            quantize.ModelFolder(broken / "pretrain" / "final"),
            quantize.read_vocabulary(broken / "tokenizer"),
            "f16",
            tmp_path / "model.gguf",
            title="test",
        )
    assert error.value.code == code and NORM in error.value.where
    assert not list(tmp_path.glob("*.gguf")) and not list(tmp_path.glob(".*.part"))


def test_a_width_that_does_not_pack_is_named(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, intermediate_size=100)
    with pytest.raises(UserError, match="rows have 100 values, Q8_0 packs 32 at a time"):
        do_quantize(run_dir, tmp_path / "quantized", formats=("q8_0",))


def test_a_truncated_checkpoint_is_named(run_dir: Path, tmp_path: Path) -> None:
    broken = broken_run(run_dir, tmp_path)
    path = broken / "pretrain" / "final" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match="weights-damaged"):
        do_quantize(broken, tmp_path / "quantized")


def test_a_tokenizer_of_another_model_is_named(run_dir: Path, tmp_path: Path) -> None:
    broken = broken_run(run_dir, tmp_path)
    path = broken / "pretrain" / "final" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "vocab_size": 300}))
    with pytest.raises(UserError, match="tokenizer-other-model"):
        do_quantize(broken, tmp_path / "quantized")


def test_the_mixture_q4_k_m_is_llama_cpps() -> None:
    # 12 layers: the first eighth is layer 0, the last begins at 10; between, every third.
    kinds = [
        k_quants.q4_k_m_kind(
            f"model.layers.{n}.mlp.down_proj.weight", (8, 256), 12, is_output=False
        )
        for n in range(12)
    ]
    wide = {n for n, kind in enumerate(kinds) if kind == gguf.GGMLQuantizationType.Q6_K}
    assert wide == {0, 3, 6, 9, 10, 11}
    narrow = k_quants.q4_k_m_kind("lm_head.weight", (8, 96), 12, is_output=True)
    assert narrow == gguf.GGMLQuantizationType.Q8_0  # 96 is no multiple of 256


def test_q4_k_m_loads_back_near_the_original(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    run_dir = make_run(tmp_path, hidden_size=256, intermediate_size=256)
    outcome = do_quantize(run_dir, tmp_path / "quantized", formats=("q4_k_m",))
    reader = gguf.GGUFReader(tmp_path / "quantized" / "model-q4_k_m.gguf")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    original = quantize.ModelFolder(run_dir / "pretrain" / "final")
    errors = {}
    for kind, name, source in (
        ("Q6_K", "output.weight", "lm_head.weight"),
        ("Q4_K", "blk.0.attn_output.weight", "model.layers.0.self_attn.o_proj.weight"),
    ):
        assert tensors[name].tensor_type.name == kind
        found = gguf.dequantize(tensors[name].data, tensors[name].tensor_type)
        weight = original.tensor(source)
        errors[kind] = float(np.sqrt(np.mean((found - weight) ** 2) / np.mean(weight**2)))
    # About 2 and 8 % of a normal weight's size: six and four bits over a range of some sigmas.
    assert 0.005 < errors["Q6_K"] < 0.03 < errors["Q4_K"] < 0.1
    assert outcome.metrics["q4_k_m"]["size_bytes"] < outcome.metrics["original"]["size_bytes"] / 5


def test_a_format_whose_library_is_missing_names_the_extra(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    k_quants._library.cache_clear()
    for file_format, extra in (("q4_k_m", "llama-cpp"), ("awq", "awq")):
        with pytest.raises(UserError, match=rf"teenytinyllama\[{extra}\]"):
            do_quantize(run_dir, tmp_path, formats=(file_format,))


def test_awq_groups_are_the_largest_that_divide_every_width(tmp_path: Path) -> None:
    sizes = {}
    for hidden, inner in ((64, 96), (64, 128), (256, 384)):
        folder = tmp_path / f"{hidden}-{inner}"
        folder.mkdir()
        run_dir = make_run(folder, hidden_size=hidden, intermediate_size=inner)
        sizes[inner] = awq.group_size_for(quantize.ModelFolder(run_dir / "pretrain" / "final"))
    assert sizes == {96: 32, 128: 64, 384: 128}


@pytest.mark.slow
def test_awq_loads_back_in_transformers(run_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("llmcompressor")
    few = {"num_calibration_rows": 4, "calibration_row_tokens": 32}
    outcome = do_quantize(run_dir, tmp_path, formats=("awq",), **few)
    assert abs(outcome.metrics["awq"]["bits_per_byte_increase"]) < 0.03
    config = json.loads((tmp_path / "awq" / "config.json").read_text())["quantization_config"]
    assert config["quant_method"] == "compressed-tensors"
    assert config["config_groups"]["group_0"]["weights"]["symmetric"] is True
    assert (tmp_path / "awq" / "tokenizer.model").is_file()


@pytest.mark.slow
def test_llama_cpp_measures_its_own_speed_and_memory(quantized: tuple[Path, StageResult]) -> None:
    pytest.importorskip("xllamacpp")
    from teenytinyllama.stages.quantize.gguf_speed import measure

    path = quantized[0] / "model-q8_0.gguf"
    metrics = measure(path, vocab_size=VOCAB_SIZE, num_threads=1)
    assert metrics["tokens_per_s"] > 0
    assert 1e6 < metrics["peak_memory_bytes"] < 400e6  # the runtime's alone, not torch's


CONVERSATION: list[Message] = [
    {"role": "system", "content": "Responda com calma."},
    {"role": "user", "content": "Quem mora na floresta?"},
    {"role": "assistant", "content": "A raposa."},
    {"role": "user", "content": "E o pássaro? 🦊 123"},
]


@pytest.mark.slow
def test_llama_cpp_reads_the_file_as_we_do(
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
        model = LlamaForCausalLM.from_pretrained(run_dir / "pretrain" / "final").eval()
        for text in TEXTS[:10]:
            ids = encoder.encode_document(text)[:-1][:60]
            with torch.no_grad():
                expected = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
            best, log_probability = runtime.next_token(ids)
            assert best == int(expected.argmax())
            assert abs(log_probability - float(expected.max())) < 1e-2
