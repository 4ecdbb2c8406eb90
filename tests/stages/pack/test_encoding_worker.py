from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from teenytinyllama.artifacts.tokenizer import load_tokenizer, tokenizer_file
from teenytinyllama.stages.pack.encoding_worker import EncodingWorker, batch_encoder


def test_batch_is_the_same_in_another_process(small_tokenizer_dir: Path) -> None:
    model = tokenizer_file(small_tokenizer_dir).read_bytes()
    encoder = load_tokenizer(small_tokenizer_dir)
    texts = ["Uma raposa.", " Uma\nraposa. ", [{"role": "user", "content": "Oi"}]]
    batch = batch_encoder(model)(texts)
    with EncodingWorker(model) as worker:
        assert worker.encode(texts) == batch
    expected = [
        *map(encoder.encode_document, texts[:2]),
        encoder.render(texts[2], add_generation_prompt=False),
    ]
    assert (np.frombuffer(batch.ids, np.uint32) == np.concatenate(expected)).all()
    assert batch.num_tokens == [len(ids) for ids in expected]
    assert batch.text_hashes[0] == batch.text_hashes[1] != batch.text_hashes[2]
    assert batch.num_bytes == sum(map(len, ["Uma raposa.", " Uma\nraposa. ", "Oi"]))


def test_dead_worker_is_an_error(small_tokenizer_dir: Path) -> None:
    model = tokenizer_file(small_tokenizer_dir).read_bytes()
    with EncodingWorker(model) as worker:
        worker._process.kill()
        worker._process.wait()
        with pytest.raises((EOFError, BrokenPipeError)):
            worker.encode(["Uma raposa."])
