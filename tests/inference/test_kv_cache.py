"""The KV cache: rows move and are cut without changing what the others hold."""

from __future__ import annotations

import pytest
import torch
from support.tiny_llama import PROMPTS, tiny_llama

from teenytinyllama.inference.decoder import Decoder
from teenytinyllama.inference.kv_cache import KVCache


def test_capacity_grows_in_steps_up_to_the_context() -> None:
    cache = KVCache((2, 1, 50, 4), torch.float32, torch.device("cpu"))
    cache.reserve(3, 10)
    assert cache.keys.shape == cache.values.shape == (2, 3, 1, 32, 4)
    cache.reserve(2, 40)
    assert cache.keys.shape == (2, 3, 1, 50, 4)


def test_bytes_of_a_full_row_count_keys_and_values() -> None:
    cache = KVCache((2, 3, 50, 4), torch.bfloat16, torch.device("cpu"))
    assert cache.max_row_bytes == 2 * (2 * 3 * 50 * 4) * 2


def test_dropping_a_row_moves_the_last_one_there() -> None:
    decoder = Decoder(tiny_llama())
    cache = decoder.new_cache()
    decoder.prefill(cache, PROMPTS)
    kept = cache.keys[:, 3, :, : cache.lengths[3]].clone()
    cache.drop(1)
    assert cache.lengths == [4, 3, 21]
    assert torch.equal(cache.keys[:, 1, :, :3], kept)


def test_a_truncated_row_continues_as_its_shorter_prompt() -> None:
    decoder = Decoder(tiny_llama())
    cache, expected = decoder.new_cache(), decoder.new_cache()
    decoder.prefill(cache, [[1, 5, 9, 20, 21]])
    cache.truncate(0, 3)
    decoder.prefill(expected, [[1, 5, 9]])
    found = decoder.decode_step(cache, [40])
    torch.testing.assert_close(found, decoder.decode_step(expected, [40]))


@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_bfloat16_rows_of_unequal_length_match_single_rows(num_kv_heads: int) -> None:
    half = tiny_llama(num_key_value_heads=num_kv_heads).to(torch.bfloat16)
    decoder = Decoder(half)
    cache = decoder.new_cache()
    decoder.prefill(cache, PROMPTS)
    for _ in range(3):  # several rows use other kernels than one
        logits = decoder.decode_step(cache, [40, 41, 42, 43])
    for row, prompt in enumerate(PROMPTS):
        with torch.no_grad():
            ids = torch.tensor([[*prompt, *[40 + row] * 3]])
            expected = half(ids).logits[0, -1].float()
        assert (logits[row] - expected).abs().max() < 0.15
