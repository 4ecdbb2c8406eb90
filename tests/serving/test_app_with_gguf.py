"""A GGUF file behind OpenAI's API: the same text as ours, usage, stop strings, cancellation."""

from __future__ import annotations

from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest
from openai import OpenAI
from support.running_server import RunningServer, running, wait_until

pytest.importorskip("xllamacpp")
pytest.importorskip("gguf")

import gguf

from teenytinyllama.artifacts.vocabulary import read_vocabulary
from teenytinyllama.inference.llama_cpp import GgufChatModel
from teenytinyllama.serving.server import load_all
from teenytinyllama.stages.quantize.gguf_writer import write_gguf
from teenytinyllama.stages.quantize.tensor_reader import TensorReader

BODY = {"messages": [{"role": "user", "content": "Olá, raposa!"}], "temperature": 0}


@pytest.fixture(scope="module")
def both(served_run: Path) -> Iterator[RunningServer]:
    """The run and its GGUF file, served together like `ttl serve RUN FILE`."""
    final, path = served_run / "pretrain" / "final", served_run / "model-f16.gguf"
    vocabulary = read_vocabulary(served_run / "tokenizer")
    write_gguf(
        TensorReader(final),
        vocabulary,
        "f16",
        path,
        about=gguf.Metadata(name="small"),
        is_chat=True,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        chat_models = load_all([served_run, path])
        with running(chat_models) as server:
            yield server


def client_of(server: RunningServer) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60)


def test_a_gguf_file_gives_the_text_of_its_run(both: RunningServer) -> None:
    client = client_of(both)
    names = [model.id for model in client.models.list().data]
    assert names[1] == "model-f16.gguf"
    ours, theirs = (
        client.chat.completions.create(model=name, max_tokens=8, **BODY) for name in names
    )
    assert ours.choices[0].message.content and ours.usage and theirs.usage
    assert theirs.choices[0].message.content == ours.choices[0].message.content
    assert theirs.usage.prompt_tokens == ours.usage.prompt_tokens
    assert theirs.usage.completion_tokens in (8, ours.usage.completion_tokens)
    texts = [
        client.completions.create(model=name, prompt="A raposa", max_tokens=6, temperature=0)
        for name in names
    ]
    assert texts[0].choices[0].text.strip() == texts[1].choices[0].text.strip()


def test_a_gguf_file_streams_stops_and_rejects_like_a_run(both: RunningServer) -> None:
    client, name = client_of(both), "model-f16.gguf"
    whole = client.chat.completions.create(model=name, max_tokens=20, **BODY).choices[0]
    text = whole.message.content or ""
    events = client.chat.completions.create(model=name, max_tokens=20, stream=True, **BODY)
    assert "".join(e.choices[0].delta.content or "" for e in events if e.choices) == text
    stop = text[5:7]
    short = client.chat.completions.create(model=name, max_tokens=20, stop=stop, **BODY)
    assert short.choices[0].message.content == text[: text.index(stop)]
    assert short.choices[0].finish_reason == "stop"
    for change, field in (
        ({"prompt": [1, 5, 6]}, "prompt"),
        ({"prompt": "lua " * 400}, "prompt"),
        ({"prompt": "a", "max_tokens": 4000}, "max_tokens"),
    ):
        status, answer, _ = both.ask("/v1/completions", {"model": name, **change})
        assert (status, answer["error"]["param"]) == (400, field)


def test_a_client_that_leaves_frees_the_worker(both: RunningServer) -> None:
    chat_model = both.app.chat_models["model-f16.gguf"]
    assert isinstance(chat_model, GgufChatModel)
    before = both.app.metrics.total("cancelled_total")
    connection = HTTPConnection("127.0.0.1", both.port)
    body = '{"model": "model-f16.gguf", "prompt": "A", "max_tokens": 120, "stream": true}'
    head = {"content-type": "application/json"}
    connection.request("POST", "/v1/completions", body, head)
    connection.getresponse().read(50)
    if connection.sock:
        connection.sock.close()
    connection.close()
    wait_until(lambda: both.app.scheduler.num_active == 0)
    assert both.app.metrics.total("cancelled_total") <= before + 1
    assert client_of(both).chat.completions.create(model=chat_model.name, max_tokens=2, **BODY)
    assert both.ask("/health")[1]["models"][chat_model.name] == "as loaded"
