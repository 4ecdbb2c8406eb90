"""Every suite on tiny models of the field's architectures, from a folder to a score."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import transformers
from lm_eval import evaluator
from lm_eval.models.huggingface import HFLM
from support.benchmark_items import ROWS, vary, write_split

from teenytinyllama.settings.datasets import Task
from teenytinyllama.stages.evaluate.scored_models import load_model
from teenytinyllama.stages.evaluate.suites import SUITES_DIR, load_benchmarks
from teenytinyllama.stages.evaluate.task_runner import group_tasks, score_tasks

CONTEXT = 96
SIZES = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": CONTEXT,
}
# By the name of its class: what its configuration needs. Gemma 3 has a sliding window in
# every second layer; BLOOM and MPT know no position ids, but a bias by distance (ALiBi).
ARCHITECTURES = {
    "Llama": SIZES,
    "Mistral": SIZES | {"sliding_window": None},
    "Qwen3": SIZES,
    "GPT2": {"vocab_size": 400, "n_positions": CONTEXT, "n_embd": 32, "n_layer": 2, "n_head": 4},
    "OPT": SIZES | {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "GPTNeoX": SIZES,
    "Gemma": SIZES | {"num_key_value_heads": 1},
    "Gemma2": SIZES | {"sliding_window": 16, "query_pre_attn_scalar": 8},
    "Gemma3": SIZES | {"sliding_window": 16, "query_pre_attn_scalar": 8},
    "Bloom": {"vocab_size": 400, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "Phi3": SIZES | {"pad_token_id": 3, "original_max_position_embeddings": CONTEXT},
}
PACKED = {"Llama", "Mistral", "Qwen3", "GPT2", "OPT", "GPTNeoX", "Gemma", "Phi3"}
# `test_packed_lm` has Llama, Qwen, GPT-2 and GPT-NeoX at each run, request by request.
SLOW = ("Llama", "Qwen3", "GPTNeoX", "Mistral", "Gemma", "Gemma2", "Phi3")
# The folder that a suite reads -> a task whose rows it holds.
FOLDERS = {name.removesuffix("_mc1").removesuffix("_text"): name for name in ROWS}


@pytest.fixture(scope="module")
def items_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    for name, task in FOLDERS.items():
        (folder / name).mkdir()
        write_split(folder / name, "test", vary(ROWS[task], 4))
        write_split(folder / name, "train", vary(ROWS[task], 4, start=5))
    (folder / "multiblimp_pt" / "train.jsonl").unlink()
    return folder


def folder_of(kind, folder, tokenizer):
    """A random model whose choices differ clearly, with a tokenizer, as published folders are."""
    if kind == "Gemma3":
        config = transformers.Gemma3TextConfig(**ARCHITECTURES[kind])
    else:
        config = getattr(transformers, f"{kind}Config")(**ARCHITECTURES[kind])
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "norm" not in name:
                parameter.normal_(0, 0.15)
    model.save_pretrained(folder)
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_max_length = CONTEXT  # BLOOM's configuration has no length
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[pytest.mark.slow] * (kind in SLOW)) for kind in ARCHITECTURES],
)
def test_every_suite_equals_the_harness_backend(kind, tokenizer, items_dir, tmp_path):
    scored = load_model(kind, folder_of(kind, tmp_path, tokenizer), precision="fp32")
    names = sorted(path.stem for path in SUITES_DIR.glob("*.yaml"))
    suites = tuple(
        Task(name=name, kind="suite", path=str(items_dir), num_fewshot=2) for name in names
    )
    theirs = HFLM(
        pretrained=scored.model,
        tokenizer=scored.tokenizer,
        batch_size=1,
        max_length=scored.context_length,
        softmax_dtype="float32",
    )
    packed = set()
    for group in group_tasks(load_benchmarks(suites)):
        found = score_tasks(scored, group, batch_tokens=256, cache_dir=None)
        packed |= {result["packed"] for result in found}
        logprobs = [[item["logprobs"] for item in result["items"]] for result in found]
        assert all(math.isfinite(one) for task in logprobs for item in task for one in item)
        if group[0].metadata.get("encodes_apart"):
            continue  # the harness has not done so since 2023
        tasks = {benchmark.name: benchmark.harness_task() for benchmark in group}
        their = evaluator.evaluate(lm=theirs, task_dict=tasks, bootstrap_iters=0, log_samples=True)
        for name, task in zip(tasks, logprobs, strict=True):
            samples = sorted(their["samples"][name], key=lambda sample: sample["doc_id"])
            expected = [[response[0][0] for response in one["resps"]] for one in samples]
            assert task == [pytest.approx(item, abs=2e-4) for item in expected]
    assert packed == {kind in PACKED}
