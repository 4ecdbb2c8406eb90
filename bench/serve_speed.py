"""Throughput of the server: 64 clients at once against one client, in turn, on one model.

    python bench/serve_speed.py [--rounds 3] [--tokens 48] [--size 160m]

The server keeps as few kernels as `ttl serve` does. The model has the paper's size and random
weights: speed does not depend on the text. One client and 64 clients take turns, so that other
work on the machine affects both.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from teenytinyllama.serving.server import limit_kernels

limit_kernels()  # as `ttl serve` does

import torch  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from openai import AsyncOpenAI  # noqa: E402
from support.running_server import running  # noqa: E402
from support.small_run import make_run  # noqa: E402

from teenytinyllama.inference.chat_model import load_chat_model  # noqa: E402
from teenytinyllama.inference.decoder import Decoder  # noqa: E402
from teenytinyllama.inference.throughput import SIZES  # noqa: E402
from teenytinyllama.modeling.initialization import build_model, llama_config  # noqa: E402

NUM_CLIENTS, VOCAB_SIZE = 64, 32_000


async def tokens_per_s(url: str, num_clients: int, max_tokens: int) -> float:
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=600) as client:

        async def one(number: int) -> int:
            answer = await client.completions.create(
                model="model",
                prompt=f"A raposa {number} mora",
                max_tokens=max_tokens,
                temperature=0,
            )
            assert answer.usage is not None
            return answer.usage.completion_tokens

        started_at = time.perf_counter()
        counts = await asyncio.gather(*map(one, range(num_clients)))
        return sum(counts) / (time.perf_counter() - started_at)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--size", default="160m")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run_dir = make_run(Path(folder))
        chat_model = load_chat_model(run_dir, name="model")
        config = llama_config(
            SIZES[options.size], vocab_size=VOCAB_SIZE, bos_id=1, eos_id=2, pad_id=3
        )
        model = build_model(config, seed=0).to(torch.bfloat16)
        chat_model = replace(chat_model, decoder=Decoder(model), vocabulary=[b" a"] * VOCAB_SIZE)
        del model
        with running([chat_model]) as server:
            asyncio.run(tokens_per_s(server.url, 8, 4))
            rows = []
            for _ in range(options.rounds):
                one = asyncio.run(tokens_per_s(server.url, 1, options.tokens))
                many = asyncio.run(tokens_per_s(server.url, NUM_CLIENTS, options.tokens))
                rows.append((one, many))
    ratios = [many / one for one, many in rows]
    ratio = statistics.median(ratios)
    for figure, value, spread, unit, goal, holds in (
        ("one client", statistics.median(o for o, _ in rows), 0, "tokens/s", None, True),
        ("64 clients", statistics.median(m for _, m in rows), 0, "tokens/s", None, True),
        ("64 clients against one", ratio, max(ratios) - min(ratios), "times", 4.0, ratio >= 4),
    ):
        row = {"figure": f"serve {options.size}: {figure}", "value": value, "spread": spread}
        row |= {"unit": unit, "peer": "one client", "goal": goal, "holds": holds}
        print(json.dumps(row))


if __name__ == "__main__":
    main()
