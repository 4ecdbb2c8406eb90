"""Prefill fills the cache as a whole forward pass does, and stops in the last layer."""

from __future__ import annotations

import torch
from transformers import DynamicCache

from teenytinyllama.stages.evaluate.prefill import expand_cache, prefill

IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


def keys_and_values(cache):
    return [(layer.keys, layer.values) for layer in cache.layers]


@torch.no_grad()
def test_cache_equals_that_of_a_whole_forward_pass(build):
    for kind in ("llama", "gpt2", "neox", "qwen2"):
        model = build(kind)
        whole = model(input_ids=IDS, use_cache=True).past_key_values
        cache = DynamicCache()
        prefill(model, IDS[:, :4], cache)
        prefill(model, IDS[:, 4:], cache)
        for found, expected in zip(keys_and_values(cache), keys_and_values(whole), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_last_mlp_and_head_are_not_computed(build):
    model = build("llama")
    calls = []
    for module in (model.model.layers[0].mlp, model.model.layers[1].mlp, model.lm_head):
        module.register_forward_pre_hook(lambda module, _: calls.append(module))
    prefill(model, IDS, DynamicCache())
    assert calls == [model.model.layers[0].mlp]


@torch.no_grad()
def test_expanded_cache_repeats_its_row_and_grows_alone(build):
    model, cache = build("llama"), DynamicCache()
    prefill(model, IDS, cache)
    three = expand_cache(cache, 3)
    prefill(model, IDS.repeat(3, 1), three)
    assert three.get_seq_length() == 12
    assert cache.get_seq_length() == 6
    assert all(torch.equal(keys[2, :, :6], keys[0, :, :6]) for keys, _ in keys_and_values(three))
