import pytest
import torch
from torch.nn import functional

from teenytinyllama.training import losses
from teenytinyllama.training.losses import IGNORED, linear_cross_entropy


def reference(hidden, weight, targets, z_loss=0.0):
    logits = hidden @ weight.T
    loss = functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
    counted = targets != IGNORED
    return loss + z_loss * torch.logsumexp(logits, -1)[counted].square().sum()


@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_loss_and_gradients_equal_the_plain_ones_over_several_chunks(z_loss, monkeypatch):
    monkeypatch.setattr(losses, "CHUNK_BYTES_CPU", 1)  # the smallest chunk: 128 rows
    monkeypatch.setattr(losses, "BLOCK_BYTES_CPU", 4 * 50 * 5)  # five rows
    torch.manual_seed(0)
    hidden = torch.randn(300, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(50, 8, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 50, (300,))
    targets[::7] = IGNORED
    expected = reference(hidden, weight, targets, z_loss)
    by_hand = torch.autograd.grad(expected * 3, (hidden, weight))
    found = linear_cross_entropy(hidden, weight, targets, z_loss=z_loss)
    by_chunk = torch.autograd.grad(found * 3, (hidden, weight))
    # The softmax is computed in fp32 whatever comes in.
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    for a, b in zip(by_chunk, by_hand, strict=True):
        assert (a - b).abs().max() < 1e-5


def test_rows_without_target_count_nothing():
    hidden, weight = torch.randn(4, 8, requires_grad=True), torch.randn(5, 8)
    loss = linear_cross_entropy(hidden, weight, torch.full((4,), IGNORED))
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad.abs().max() == 0


def test_autocast_multiplies_in_bfloat16_and_keeps_fp32_gradients():
    torch.manual_seed(0)
    hidden = torch.randn(64, 32, requires_grad=True)
    weight = torch.randn(100, 32, requires_grad=True)
    targets = torch.randint(0, 100, (64,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, targets)
    loss.backward()
    assert loss.dtype == weight.grad.dtype == hidden.grad.dtype == torch.float32
    # bfloat16 keeps 8 bits: products of 32 terms are right to about one part in a hundred.
    assert loss.item() == pytest.approx(reference(hidden, weight, targets).item(), rel=1e-2)
