"""The held-out sample and the comparison of two models on it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.ranks import in_ranks

from teenytinyllama.artifacts.documents import DocumentWriter, read_documents
from teenytinyllama.artifacts.tokenizer import load_tokenizer
from teenytinyllama.errors import UserError
from teenytinyllama.process_group import ALONE, ProcessGroup
from teenytinyllama.stages.quantize.quantization_loss import (
    SampleScore,
    check_loss,
    compare_scores,
    load_model,
    score_sample,
    take_sample,
)


def test_sample_holds_whole_documents_in_windows(run_dir: Path) -> None:
    encoder = load_tokenizer(run_dir / "tokenizer")
    documents = list(read_documents(run_dir / "corpus", "heldout"))
    ids = [encoder.encode_document(document.text) for document in documents]
    two = len(ids[0]) + len(ids[1]) - 2
    sample = take_sample(run_dir / "corpus", encoder, max_tokens=two, context=16)
    assert (sample.num_documents, sample.num_predicted) == (2, two)
    assert sample.num_bytes == documents[0].num_bytes + documents[1].num_bytes
    assert all(len(window) <= 17 for window in sample.windows)
    assert sample.windows[0][-1] == sample.windows[1][0] == ids[0][16]


def test_first_document_is_cut_with_its_bytes(run_dir: Path) -> None:
    encoder = load_tokenizer(run_dir / "tokenizer")
    sample = take_sample(run_dir / "corpus", encoder, max_tokens=10, context=64)
    assert sample.num_predicted == 10
    assert sample.num_bytes == len(encoder.decode(list(sample.windows[0])).encode())


def test_no_heldout_text_is_an_error(run_dir: Path, tmp_path: Path) -> None:
    encoder = load_tokenizer(run_dir / "tokenizer")
    with DocumentWriter(tmp_path, "heldout"):
        pass
    with pytest.raises(UserError, match="heldout-empty"):
        take_sample(tmp_path, encoder, max_tokens=10, context=64)


def test_a_model_loses_nothing_against_itself(run_dir: Path) -> None:
    encoder = load_tokenizer(run_dir / "tokenizer")
    sample = take_sample(run_dir / "corpus", encoder, max_tokens=400, context=64)
    score = score_sample(load_model(run_dir / "pretrain" / "final"), sample, "score")
    assert len(score.best) == sample.num_predicted
    assert len(score.logits) == min(256, sample.num_predicted)
    assert compare_scores(score, score) == {
        "sample_bits_per_byte": score.bits_per_byte,
        "sample_bits_per_byte_increase": 0,
        "same_best_token": 1,
        "max_logit_difference": 0,
    }


def test_comparison_of_two_scores() -> None:
    original = SampleScore(2.0, torch.tensor([1, 2, 3, 4]), torch.tensor([[0.0, 1.0]]))
    quantized = SampleScore(2.1, torch.tensor([1, 2, 3, 5]), torch.tensor([[0.5, 0.75]]))
    found = compare_scores(original, quantized)
    assert found["sample_bits_per_byte_increase"] == pytest.approx(0.05)
    assert found["same_best_token"] == 0.75
    assert found["max_logit_difference"] == 0.5


def test_several_processes_compare_as_one(run_dir: Path) -> None:
    """To the last bit, with as many windows for each or not."""
    encoder = load_tokenizer(run_dir / "tokenizer")
    sample = take_sample(run_dir / "corpus", encoder, max_tokens=400, context=48)

    def work(processes: ProcessGroup) -> dict[str, float]:
        torch.set_num_threads(1)
        model = load_model(run_dir / "pretrain" / "final")
        original = score_sample(model, sample, "score", processes)
        with torch.no_grad():
            weights = model.lm_head.weight
            noise = torch.randn(weights.shape, generator=torch.Generator().manual_seed(0))
            weights.add_(noise * weights.std())
        changed = score_sample(model, sample, "score", processes)
        return compare_scores(original, changed, processes)

    [alone] = in_ranks(1, lambda _: work(ALONE))
    assert 0 < alone["same_best_token"] < 1
    for count in (2, 3):
        assert in_ranks(count, lambda _: work(ProcessGroup())) == count * [alone]


def test_folder_that_loses_too_much_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "awq"
    folder.mkdir()
    check_loss(0.03, 0.03, folder)
    with pytest.raises(UserError, match=r"quantize-loss.*grow by 4.00%, the recipe allows 3.00%"):
        check_loss(0.04, 0.03, folder)
    assert not folder.exists()
