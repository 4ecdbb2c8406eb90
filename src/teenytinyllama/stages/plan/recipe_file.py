"""A plan as a recipe that loads and runs."""

from __future__ import annotations

import json
from pathlib import Path

from teenytinyllama.stages.plan.planner import Plan


def recipe_text(plan: Plan, *, name: str, language: str, text: str) -> str:
    """The recipe in TOML. `text` is the path of the user's text; empty: the storybook."""
    model, asked = plan.model, plan.question
    source = (
        f'{{ kind = "files", path = {_quoted(text)} }}'
        if text
        else '{ kind = "storybook", num_documents = 8000, license = "Apache-2.0" }'
    )
    length = asked.sequence_length
    warmup = max(10, min(2000, plan.num_steps // 50))
    lines = [
        f"# Written by `ttl new` from a plan: {plan.parameters:,} parameters, {plan.tokens:,.0f} "
        "tokens,",
        f"# {plan.cost.hours:.3g} h on {asked.num_gpus} x {asked.gpu.title}, "
        f"{plan.cost.kwh:.3g} kWh, ${plan.cost.usd:,.2f}. Limited by {plan.limit}.",
        "# Give each source its licence (SPDX) and origin: the cards are written from them.",
        f"name = {_quoted(name)}",
        f"language = {_quoted(language)}",
        "",
        "[energy]",
        f"country = {_quoted(asked.country)}",
        f"usd_per_gpu_hour = {float(asked.usd_per_hour * asked.num_gpus)}",
        "",
        "[corpus]",
        f"sources = [{source}]",
        "",
        "[tokenizer]",
        f"vocab_size = {plan.vocab_size}",
        "",
        "[pack]",
        "",
        "[pretrain]",
        f"sequence_length = {length}",
        f"tokens_per_step = {plan.tokens_per_step}",
        f"num_steps = {plan.num_steps}",
        f"evaluate_every_steps = {max(1, plan.num_steps // 20)}",
        f"sample_every_steps = {max(1, plan.num_steps // 5)}",
        f"model = {{ hidden_size = {model.hidden_size}, intermediate_size = "
        f"{model.intermediate_size}, num_hidden_layers = {model.num_hidden_layers}, "
        f"num_attention_heads = {model.num_attention_heads}, max_position_embeddings = {length} }}",
        f'optimizer = {{ kind = "muon", peak_learning_rate = {plan.peak_learning_rate}, '
        f"muon_learning_rate = {plan.peak_learning_rate} }}",
        f'schedule = {{ kind = "wsd", warmup_steps = {warmup} }}',
        "",
        "[evaluate]",
        "",
        "[quantize]",
        'formats = ["q8_0"]',
        "",
        "[report]",
        "",
    ]
    return "\n".join(lines)


def text_bytes_of(paths: list[Path]) -> int:
    """Bytes of the files that hold the user's text. Packed files count as four times their size.

    Text under zstd or gzip is about a quarter of itself; the corpus room counts exactly.
    """
    packed = {".gz", ".zst", ".parquet", ".xz", ".bz2"}
    return sum(p.stat().st_size * (4 if p.suffix in packed else 1) for p in paths)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
