"""The OpenAPI description: every path of the API, every field of its requests."""

from __future__ import annotations

import json
import re

from support.running_server import RunningServer, running

from teenytinyllama.inference.chat_model import ChatModel
from teenytinyllama.serving.access_guard import AccessGuard
from teenytinyllama.serving.api_description import OPERATIONS
from teenytinyllama.serving.protocol import ChatRequest


def test_every_path_answers_as_described(server: RunningServer) -> None:
    status, api, _ = server.ask("/openapi.json")
    assert status == 200 and set(api["paths"]) == set(OPERATIONS)
    for path, operations in api["paths"].items():
        (method,) = operations
        body = {"model": "gone"} if method == "post" else None
        status, _, response = server.ask(path.replace("{name}", "tiny"), body)
        kind = response.getheader("content-type", "").partition(";")[0]
        described = operations[method]["responses"]["200" if status == 200 else "4XX"]
        assert status in (200, 400, 404) and kind in described["content"], path


def test_every_field_and_reference_is_described(server: RunningServer) -> None:
    api = server.ask("/openapi.json")[1]
    schemas = api["components"]["schemas"]
    assert set(schemas["ChatRequest"]["properties"]) == set(ChatRequest.model_fields)
    assert schemas["ChatRequest"]["properties"]["tools"]["enum"] == [None, []]
    used = re.findall(r'"#/components/schemas/(\w+)"', json.dumps(api))
    assert used and set(used) <= set(schemas)


def test_a_server_with_a_key_says_so_without_it(chat_model: ChatModel) -> None:
    with running([chat_model], guard=AccessGuard(api_key="chave-com-mais-de-dezesseis")) as server:
        api = server.ask("/openapi.json")[1]
    assert api["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
    assert api["paths"]["/v1/models"]["get"]["security"] == [{"key": []}]
    assert api["paths"]["/health"]["get"]["security"] == []
