from __future__ import annotations

import pytest
import torch
from torch import nn

from teenytinyllama.inference import onednn_linear
from teenytinyllama.inference.onednn_linear import faster_linear


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("packs", [False, True])
def test_equals_torch_s_own_product(bias, packs, monkeypatch):
    if not packs:
        monkeypatch.setattr(onednn_linear, "MAX_PACKED_BYTES", 0)
    torch.manual_seed(0)
    layer = nn.Linear(24, 40, bias=bias)
    inputs = torch.randn(3, 7, 24)
    with torch.inference_mode():
        expected = layer(inputs)
    with faster_linear(layer):
        found = layer(inputs)
        strided = layer(inputs.transpose(0, 1))  # not contiguous: left to torch
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(strided, expected.transpose(0, 1), rtol=1e-5, atol=1e-5)


def test_each_weight_is_packed_once(monkeypatch):
    layers = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    packed, pack = [], torch.ops.mkldnn._reorder_linear_weight
    monkeypatch.setattr(
        onednn_linear, "_pack", lambda weight: packed.append(weight) or pack(weight, None)
    )
    with faster_linear(layers):
        for _ in range(3):
            layers(torch.ones(2, 4))
    assert len(packed) == 2


def test_changed_weights_are_packed_again():
    layer = nn.Linear(4, 2, bias=False)
    inputs = torch.ones(1, 4)
    for value in (1.0, 2.0):
        with torch.no_grad():
            layer.weight.fill_(value)
        with faster_linear(layer):
            assert layer(inputs).tolist() == [[4 * value, 4 * value]]


def test_other_precisions_are_left_alone():
    layer = nn.Linear(4, 2).to(torch.bfloat16)
    inputs = torch.ones(1, 4, dtype=torch.bfloat16)
    with torch.no_grad():
        expected = layer(inputs)
    with faster_linear(layer), torch.no_grad():
        assert torch.equal(layer(inputs), expected)
