"""Generated tokens per second on one CPU core: ours, transformers.generate and llama.cpp in turn.

    python bench/generation_speed.py --rounds 5        # the paper's 160m, random weights, minutes
    pip install --no-binary llama-cpp-python llama-cpp-python      # then a second llama.cpp joins

llama.cpp is the portable build of the wheel `xllamacpp` and, where `llama-cpp-python` is
installed, a build for this machine's processor. All get the same random weights, prompt, number of
new tokens and threads. Rates are of decoding alone (prefill comes before, or a run of one token is
subtracted) per second of CPU time: what one free core gives, also on a busy machine. Ratios are
taken round by round.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from transformers import LlamaForCausalLM

from teenytinyllama.inference.decoder import Decoder
from teenytinyllama.inference.throughput import SIZES, random_prompts
from teenytinyllama.modeling.initialization import build_model, llama_config
from teenytinyllama.settings.training import ModelSettings

VOCAB_SIZE = 32_000


def ours(decoder: Decoder, batch: int, prompt_tokens: int, new_tokens: int) -> float:
    cache = decoder.new_cache()
    prompts = random_prompts(batch, prompt_tokens, VOCAB_SIZE)
    tokens = decoder.prefill(cache, prompts).argmax(-1).tolist()
    started = time.process_time()
    for _ in range(new_tokens):
        tokens = decoder.decode_step(cache, tokens).argmax(-1).tolist()
    return batch * new_tokens / (time.process_time() - started)


def transformers_generate(model: LlamaForCausalLM, prompt_tokens: int, new_tokens: int) -> float:
    ids = torch.tensor(random_prompts(1, prompt_tokens, VOCAB_SIZE))
    seconds = []
    for count in (1, 1 + new_tokens):
        started = time.process_time()
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            min_new_tokens=count,
            max_new_tokens=count,
            do_sample=False,
            pad_token_id=3,
        )
        seconds.append(time.process_time() - started)
    return new_tokens / (seconds[1] - seconds[0])


def llama_cpp(runtime: object, prompt_tokens: int, new_tokens: int) -> float:
    (ids,) = random_prompts(1, prompt_tokens, VOCAB_SIZE)
    runtime.generate(ids, 1, cache_prompt=True)
    started = time.process_time()
    runtime.generate(ids, new_tokens, cache_prompt=True)
    return new_tokens / (time.process_time() - started)


def built_here(path: Path, context: int, threads: int) -> Callable[[int, int], float] | None:
    """The same by llama-cpp-python, which pip compiles for this processor; None without it."""
    try:
        from llama_cpp import Llama
    except ImportError:
        return None
    model = Llama(
        str(path), n_ctx=context, n_threads=threads, n_threads_batch=threads, verbose=False
    )

    def rate(prompt_tokens: int, new_tokens: int) -> float:
        (ids,) = random_prompts(1, prompt_tokens, VOCAB_SIZE)
        model.reset()
        model.eval(ids)
        started = time.process_time()
        for _ in range(new_tokens):
            model.eval([model.sample(temp=0.0)])
        return new_tokens / (time.process_time() - started)

    return rate


def write_files(model: LlamaForCausalLM, folder: Path) -> dict[str, Path]:
    """GGUF files of the random model, with the paper's number of made-up tokens."""
    import gguf

    from teenytinyllama.artifacts.vocabulary import Token, TokenKind, Vocabulary
    from teenytinyllama.stages.quantize.gguf_writer import write_gguf
    from teenytinyllama.stages.quantize.tensor_reader import TensorReader

    special = ["<unk>", "<s>", "</s>", "<pad>", "<|system|>", "<|user|>", "<|assistant|>"]
    tokens = [
        Token(t, 0.0, TokenKind.CONTROL if n else TokenKind.UNKNOWN) for n, t in enumerate(special)
    ]
    tokens += [Token(f"<0x{byte:02X}>", 0.0, TokenKind.BYTE) for byte in range(256)]
    rest = range(VOCAB_SIZE - len(tokens))
    tokens += [Token(f"w{index}", -float(index), TokenKind.NORMAL) for index in rest]
    model.save_pretrained(folder / "model")
    paths = {}
    for name in ("f16", "q4_k_m"):
        paths[name] = folder / f"model-{name}.gguf"
        write_gguf(
            TensorReader(folder / "model"),
            Vocabulary(tuple(tokens), "bpe"),
            name,
            paths[name],
            about=gguf.Metadata(name="random"),
        )
    return paths


def bf16_copy(source: Path) -> Path:
    """The F16 file with its matrices in bfloat16, the precision that ours runs in."""
    import gguf

    reader, path = gguf.GGUFReader(source), source.with_name("model-bf16.gguf")
    writer = gguf.GGUFWriter(path, "llama")
    for field in reader.fields.values():
        if field.name == "general.file_type":
            writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
        elif field.types[:1] == [gguf.GGUFValueType.ARRAY]:
            writer.add_array(field.name, field.contents())
        elif not field.name.startswith("GGUF.") and field.name != "general.architecture":
            writer.add_key_value(field.name, field.contents(), field.types[0])
    kinds = gguf.GGMLQuantizationType
    for tensor in reader.tensors:
        wide = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        if tensor.tensor_type == kinds.F16:
            narrow = gguf.quants.quantize(wide.astype("float32"), kinds.BF16)
            writer.add_tensor(tensor.name, narrow, raw_dtype=kinds.BF16)
        else:
            writer.add_tensor(tensor.name, wide)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=SIZES, default="160m")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    settings: ModelSettings = SIZES[given.model]
    config = llama_config(settings, VOCAB_SIZE, bos_id=1, eos_id=2, pad_id=3)
    model = build_model(config, seed=0).eval().to(torch.bfloat16)
    prompt, new = given.prompt_tokens, given.new_tokens
    with tempfile.TemporaryDirectory() as folder:
        paths = write_files(model, Path(folder))
        decoder = Decoder(model)
        from teenytinyllama.inference.llama_cpp import LlamaCppRuntime

        context = prompt + new + 64
        with (
            LlamaCppRuntime(paths["f16"], context=context, num_threads=given.threads) as f16,
            LlamaCppRuntime(paths["q4_k_m"], context=context, num_threads=given.threads) as q4,
        ):
            candidates: dict[str, Callable[[], float]] = {
                "ours, one stream": lambda: ours(decoder, 1, prompt, new),
                "transformers.generate": lambda: transformers_generate(model, prompt, new),
                "llama.cpp F16": lambda: llama_cpp(f16, prompt, new),
                "llama.cpp our Q4_K_M": lambda: llama_cpp(q4, prompt, new),
                f"ours, batch {given.batch}": lambda: ours(decoder, given.batch, prompt, new),
            }
            files = {"F16": paths["f16"], "BF16": bf16_copy(paths["f16"])}
            for name, path in {**files, "our Q4_K_M": paths["q4_k_m"]}.items():
                rate = built_here(path, context, given.threads)
                if rate is not None:
                    candidates[f"llama.cpp built here {name}"] = partial(rate, prompt, new)
            for measure in candidates.values():
                measure()
            rounds: list[dict[str, float]] = []
            gc.disable()
            for _ in range(given.rounds):
                rounds.append({name: measure() for name, measure in candidates.items()})
    report(rounds, given.model, f"ours, batch {given.batch}")


def report(rounds: list[dict[str, float]], size: str, batch_name: str) -> None:
    for name in rounds[0]:
        rates = [row[name] for row in rounds]
        middle, low, high = statistics.median(rates), min(rates), max(rates)
        print(f"{name:26} {middle:8.1f} tokens/CPU-s ({low:.1f} to {high:.1f})")
    one, generate, f16 = "ours, one stream", "transformers.generate", "llama.cpp F16"
    for figure, name, peer, goal in (
        ("one stream, bf16", one, generate, 2.0),
        ("one stream, 16 bits", one, f16, 1 / 1.5),
        ("our Q4_K_M in llama.cpp", "llama.cpp our Q4_K_M", generate, 7.0),
        ("batch in total tokens", batch_name, one, 6.0),
        ("one stream, 16 bits", one, "llama.cpp built here F16", 1 / 1.5),
        ("one stream, bf16", one, "llama.cpp built here BF16", 1 / 1.5),
        ("our Q4_K_M in llama.cpp built here", "llama.cpp built here our Q4_K_M", generate, 7.0),
    ):
        if not {name, peer} <= set(rounds[0]):
            continue
        ratios = [row[name] / row[peer] for row in rounds]
        value = statistics.median(ratios)
        print(
            json.dumps(
                {
                    "figure": f"generation {size}: {figure}",
                    "value": round(value, 3),
                    "spread": [round(min(ratios), 3), round(max(ratios), 3)],
                    "unit": "times the peer's tokens per CPU-second",
                    "peer": peer,
                    "goal": f">= {goal:.3g}",
                    "holds": value >= goal,
                }
            )
        )


if __name__ == "__main__":
    main()
