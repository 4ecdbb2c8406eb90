"""The rows of a step, held-out scores and samples of pre-training."""

import math

import numpy as np
import pytest
import torch

from teenytinyllama.artifacts.tokenizer import load_tokenizer
from teenytinyllama.artifacts.tokens import TokenWriter, open_tokens, write_index
from teenytinyllama.modeling.initialization import initialize_randomly
from teenytinyllama.settings.pretraining import PretrainSettings
from teenytinyllama.settings.training import ModelSettings
from teenytinyllama.stages.pretrain import pretrain_task
from teenytinyllama.stages.pretrain.pretrain_task import PretrainTask, read_rows
from teenytinyllama.training.data_order import SequenceOrder
from teenytinyllama.training.losses import IGNORED

BOS, EOS, LENGTH = 1, 2, 8
DOCUMENTS = [[BOS, 7, 8, 9, EOS], [BOS, 10, 11, EOS], [BOS, 12, 13, 14, 15, 16, 17, EOS]]
SIZES = ModelSettings(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=1,
    num_attention_heads=2,
    max_position_embeddings=64,
)


def settings(**changes):
    plan = {"sequence_length": LENGTH, "tokens_per_step": 2 * LENGTH, "num_steps": 4}
    return PretrainSettings(**{**plan, "model": SIZES, **changes})


@pytest.fixture(scope="module")
def pack_dir(tmp_path_factory):
    """17 training tokens in three documents, and the same held out."""
    folder = tmp_path_factory.mktemp("pack")
    entries = {}
    for split in ("train", "heldout"):
        with TokenWriter(folder, split, 640) as writer:
            for ids in DOCUMENTS:
                writer.write(ids)
        entries[split] = writer.entry
    write_index(folder, 640, "0" * 64, entries)
    return folder


@pytest.fixture
def task(pack_dir, small_tokenizer_dir, stage_context):
    encoder = load_tokenizer(small_tokenizer_dir)
    special_ids = {"bos_id": BOS, "eos_id": EOS, "pad_id": 3}
    return PretrainTask(
        settings(),
        initialize_randomly(SIZES, encoder.vocab_size, special_ids, 0),
        SequenceOrder(2, 2, seed=0),
        tokens=open_tokens(pack_dir, "train"),
        heldout=open_tokens(pack_dir, "heldout"),
        encoder=encoder,
        tokenizer_dir=small_tokenizer_dir,
        tokens_sha256="a" * 64,
        context=stage_context,
    )


def test_labels_are_the_next_tokens(pack_dir):
    arrays = read_rows(open_tokens(pack_dir, "train"), settings(), 0, np.array([1, 0]))
    text = [token for document in DOCUMENTS for token in document]
    assert arrays["input_ids"].tolist() == [text[8:16], text[:8]]
    assert arrays["labels"].tolist() == [text[9:17], text[1:9]]
    assert "position_ids" not in arrays


def test_isolated_documents_restart_positions_and_skip_bos(pack_dir):
    plan = settings(isolate_documents=True)
    arrays = read_rows(open_tokens(pack_dir, "train"), plan, 0, np.array([0]))
    assert arrays["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1, 2]]
    assert arrays["labels"].tolist() == [[7, 8, 9, EOS, IGNORED, 10, 11, EOS]]


def test_a_step_names_its_sequences_and_documents(task):
    found = task.describe_step(0)
    assert sorted(found["sequences"]) == [0, 1]
    assert found["documents"] == [0, 1, 2]


def test_evaluation_reads_whole_documents_up_to_the_limit(task, monkeypatch, pack_dir):
    with torch.no_grad():
        scores = task.evaluate(task.model)
    assert 0 < scores["heldout_bpb"] < math.inf
    monkeypatch.setattr(pretrain_task, "MAX_HELDOUT_TOKENS", 9)
    found = pretrain_task._first_documents(open_tokens(pack_dir, "heldout"), task.encoder)
    assert [len(document.ids) for document in found] == [5, 4]
    task.heldout_documents = []
    assert task.evaluate(task.model) == {}
