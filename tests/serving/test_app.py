"""OpenAI's API, used by OpenAI's own client over a real connection."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import openai
import pytest
from openai import OpenAI
from support.running_server import RunningServer, running

from teenytinyllama.inference.chat_model import ChatModel
from teenytinyllama.inference.generation import generate

HELLO = [{"role": "user", "content": "Olá, raposa! 🦊"}]


@pytest.fixture
def client(server: RunningServer) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def test_models_are_listed_with_their_context(client: OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == "tiny"
    assert model.model_extra is not None and model.model_extra["max_model_len"] == 128


def test_chat_returns_the_text_of_generate_and_its_token_counts(
    client: OpenAI, chat_model: ChatModel
) -> None:
    prompt = chat_model.encode_prompt(HELLO)
    (ids,) = generate(
        chat_model.decoder, [prompt], max_new_tokens=12, stop_ids=[chat_model.encoder.eos_id]
    )
    text = chat_model.text_stream()
    expected = "".join(map(text.push, ids)) + text.finish()
    answer = client.chat.completions.create(
        model="tiny", messages=HELLO, temperature=0, max_tokens=12
    )
    assert answer.choices[0].message.content == expected
    assert answer.choices[0].finish_reason in ("length", "stop")
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(prompt)
    assert answer.usage.completion_tokens == len(ids)
    assert answer.usage.total_tokens == len(prompt) + len(ids)


def test_a_stream_has_the_same_text_and_ends_with_usage(client: OpenAI) -> None:
    body = {"model": "tiny", "messages": HELLO, "temperature": 0, "max_tokens": 20}
    whole = client.chat.completions.create(**body)
    text, reasons, usage = "", [], None
    for event in client.chat.completions.create(
        **body, stream=True, stream_options={"include_usage": True}
    ):
        for choice in event.choices:
            text += choice.delta.content or ""
            reasons += [choice.finish_reason] if choice.finish_reason else []
        usage = event.usage or usage
    assert text == whole.choices[0].message.content
    assert reasons == [whole.choices[0].finish_reason]
    assert usage == whole.usage


def test_a_stream_is_sent_as_events_that_end_with_done(server: RunningServer) -> None:
    body = {"model": "tiny", "messages": HELLO, "stream": True, "max_tokens": 4}
    status, text, response = server.ask("/v1/chat/completions", body)
    assert status == 200
    assert response.getheader("content-type") == "text/event-stream; charset=utf-8"
    events = text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(event.startswith("data: {") for event in events[:-2])


def test_a_completion_continues_text_or_ids(client: OpenAI, chat_model: ChatModel) -> None:
    body = {"model": "tiny", "temperature": 0, "max_tokens": 6}
    by_text = client.completions.create(prompt="A raposa mora", **body)
    ids = [chat_model.encoder.bos_id, *chat_model.encoder.encode("A raposa mora")]
    assert client.completions.create(prompt=ids, **body).choices[0].text == by_text.choices[0].text
    streamed = client.completions.create(prompt="A raposa mora", stream=True, **body)
    assert "".join(e.choices[0].text for e in streamed) == by_text.choices[0].text


def test_a_stop_string_ends_the_answer_before_it(client: OpenAI) -> None:
    body = {"model": "tiny", "messages": HELLO, "temperature": 0, "max_tokens": 20}
    whole = client.chat.completions.create(**body).choices[0].message.content or ""
    stop = whole[4:6]
    short = client.chat.completions.create(**body, stop=[stop]).choices[0]
    assert short.message.content == whole[: whole.index(stop)]
    assert short.finish_reason == "stop"


def test_equal_seeds_give_equal_text_and_no_seed_differs(client: OpenAI) -> None:
    def text_of(**more: object) -> str | None:
        body = {"model": "tiny", "messages": HELLO, "temperature": 1.5, "max_tokens": 24, **more}
        return client.chat.completions.create(**body).choices[0].message.content

    assert text_of(seed=7) == text_of(seed=7) != text_of(seed=8)
    assert text_of(seed=-7) == text_of(seed=-7)
    assert text_of() != text_of()


def test_replaced_weights_are_reported_and_the_old_ones_answer(
    chat_model: ChatModel, tmp_path: Path
) -> None:
    folder = shutil.copytree(chat_model.folder, tmp_path / "final")
    body = {"model": "tiny", "prompt": "A raposa", "max_tokens": 4, "temperature": 0}
    with running([replace(chat_model, folder=folder)]) as server:
        before = server.ask("/v1/completions", body)[1]["choices"]
        assert server.ask("/health")[1]["models"] == {"tiny": "as loaded"}
        (folder / "model.safetensors").write_bytes(b"another model")
        assert server.ask("/health")[1]["models"] == {"tiny": "changed on disk"}
        assert server.ask("/v1/completions", body)[1]["choices"] == before


def test_health_reports_models_search_and_key(server: RunningServer) -> None:
    status, health, _ = server.ask("/health")
    assert (status, health["status"], health["models"]) == (200, "ok", {"tiny": "as loaded"})
    assert (health["chat_data"], health["needs_key"]) == ("none", False)


def test_a_model_is_retrieved_by_its_name(chat_model: ChatModel, client: OpenAI) -> None:
    assert client.models.retrieve("tiny") == client.models.list().data[0]
    with pytest.raises(openai.NotFoundError, match="this server has: tiny"):
        client.models.retrieve("other")
    with running([replace(chat_model, name="a/tiny")]) as server:
        assert server.ask("/v1/models/a/tiny")[1]["id"] == "a/tiny"
        assert server.ask("/v1/models/a%2Ftiny")[1]["id"] == "a/tiny"
        assert server.ask("/v1/models/", None)[0] == 404
        assert server.ask("/v1/models/a/tiny", {"a": 1})[0] == 405
        assert 'path="/v1/models/{name:path}",status="200"} 2' in server.ask("/metrics")[1]


def test_embeddings_are_vectors_of_length_1_near_for_near_texts(client: OpenAI) -> None:
    texts = ["A raposa mora na floresta.", "A raposa mora na mata.", "1 2 3 4 5 6"]
    answer = client.embeddings.create(model="tiny", input=texts)  # the client asks for base64
    vectors = np.array([row.embedding for row in answer.data])
    plain = client.embeddings.create(model="tiny", input=texts[1], encoding_format="float")
    assert np.allclose(plain.data[0].embedding, vectors[1], atol=1e-6)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
    assert answer.usage.total_tokens > plain.usage.total_tokens > 0


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"input": []}, "input", "expected at least 1 item"),
        ({"input": ["a", ""] * 129}, "input", "expected at most 256 items"),
        ({"input": None}, "input", "missing"),
        ({"input": [10**6]}, "input", "outside the vocabulary"),
        ({"input": "lua " * 500}, "input", "the model's context is 128"),
        ({"dimensions": 8}, "dimensions", "not supported here"),
        ({"encoding_format": "int8"}, "encoding_format", "expected 'float' or 'base64'"),
        ({"model": "other"}, "model", "this server has: tiny"),
    ],
)
def test_a_wrong_embedding_request_is_named_in_the_error(
    server: RunningServer, change: dict[str, object], field: str, words: str
) -> None:
    body = {"model": "tiny", "input": "Olá", **change}
    status, answer, _ = server.ask("/v1/embeddings", body)
    assert status in (400, 404) and answer["error"]["param"] == field
    assert words in answer["error"]["message"]


def test_an_embedding_of_nan_is_an_error(chat_model: ChatModel, server: RunningServer) -> None:
    whole = chat_model.decoder.norm
    chat_model.decoder.norm = whole * float("nan")
    try:
        status, answer, _ = server.ask("/v1/embeddings", {"model": "tiny", "input": "A"})
    finally:
        chat_model.decoder.norm = whole
    assert (status, answer["error"]["code"]) == (500, "model-not-finite")
