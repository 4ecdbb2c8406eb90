"""The OpenAPI description of the server, made from the models of its requests."""

from __future__ import annotations

from typing import Any, NamedTuple

from pydantic.json_schema import models_json_schema

from teenytinyllama import __version__
from teenytinyllama.serving.protocol import (
    AttributionRequest,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    ExamplesRequest,
    RequestBody,
)

TEXT = {"type": "string"}
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": TEXT,
                "type": TEXT,
                "param": {"type": ["string", "null"], "description": "The wrong field."},
                "code": TEXT,
            },
        }
    },
}


class Operation(NamedTuple):
    """What one path does."""

    summary: str
    body: type[RequestBody] | None = None
    answers: tuple[str, ...] = ("application/json",)


OPERATIONS = {
    "/v1/models": Operation("The models of this server."),
    "/v1/models/{name}": Operation("One model, by its name."),
    "/v1/chat/completions": Operation(
        "Answer a conversation, whole or as a stream of events.",
        ChatRequest,
        ("application/json", "text/event-stream"),
    ),
    "/v1/completions": Operation(
        "Continue texts, whole or as a stream of events.",
        CompletionRequest,
        ("application/json", "text/event-stream"),
    ),
    "/v1/embeddings": Operation("A vector for each text.", EmbeddingRequest),
    "/api/attribution": Operation(
        "Which words of a text are in the chat data.", AttributionRequest
    ),
    "/api/examples": Operation("Browse and search the chat data.", ExamplesRequest),
    "/health": Operation("Whether the server works; with the key, its models."),
    "/metrics": Operation("Counters for Prometheus.", answers=("text/plain",)),
}


def describe_api(*, needs_key: bool) -> dict[str, Any]:
    """The description, OpenAPI 3.1."""
    bodies = [(one.body, "validation") for one in OPERATIONS.values() if one.body is not None]
    _, schemas = models_json_schema(bodies, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    key = {"type": "http", "scheme": "bearer"}
    return {
        "openapi": "3.1.0",
        "info": {"title": "ttl serve", "version": __version__},
        "paths": {path: _path(path, one, needs_key) for path, one in OPERATIONS.items()},
        "components": {
            "schemas": {**schemas["$defs"], "Error": ERROR},
            "securitySchemes": {"key": key} if needs_key else {},
        },
    }


def _path(path: str, operation: Operation, needs_key: bool) -> dict[str, Any]:
    failed = {
        "description": "An error that names its field.",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    kinds = {
        kind: {"schema": {"type": "object"} if kind == "application/json" else TEXT}
        for kind in operation.answers
    }
    about: dict[str, Any] = {
        "summary": operation.summary,
        "responses": {
            "200": {"description": "Done.", "content": kinds},
            "4XX": failed,
            "5XX": failed,
        },
        "security": [{"key": []}] if needs_key and path != "/health" else [],
    }
    if "{name}" in path:
        about["parameters"] = [{"name": "name", "in": "path", "required": True, "schema": TEXT}]
    if operation.body is None:
        return {"get": about}
    schema = {"$ref": f"#/components/schemas/{operation.body.__name__}"}
    about["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return {"post": about}
