"""A large model behind an OpenAI-compatible address: vLLM, llama.cpp's server, Ollama, a service.

The `openai` library waits and asks again where a server is busy, slow or away for a moment. What it
then still says becomes one line.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from teenytinyllama.errors import UserError, missing_extra

MAX_RETRIES = 6
"""Of one request, with waits of half a second to eight, or as `Retry-After` says."""
NO_MONEY = ("insufficient_quota", "billing", "credit")


@dataclass(frozen=True)
class Answer:
    """What a model said; `text` is empty where the answer has none."""

    text: str
    model: str
    """As the endpoint names it: it may change while a long work runs."""
    prompt_tokens: int
    completion_tokens: int


class ChatEndpoint:
    """Asks one model. Safe to use from several threads."""

    def __init__(self, url: str, model: str, *, key_variable: str, timeout_s: float) -> None:
        try:
            import openai
        except ImportError as error:
            raise missing_extra("openai", "endpoint") from error
        if not url.startswith(("http://", "https://")):
            what = f'"{url}" is no address'
            raise UserError("endpoint-url", "--endpoint", what, "http://127.0.0.1:8000/v1")
        self.url, self.model = url, model
        self._openai = openai
        self._client = openai.OpenAI(
            base_url=url,
            api_key=os.environ.get(key_variable) or "none",
            max_retries=MAX_RETRIES,
            timeout=timeout_s,
        )
        self._key_variable = key_variable

    def ask(self, prompt: str, *, max_tokens: int, temperature: float, seed: int) -> Answer:
        """One answer to one message. Raises UserError where the endpoint gives none."""
        openai = self._openai
        try:
            found: Any = self._client.chat.completions.create(
                model=self.model,
                messages=[{"role": "user", "content": prompt}],
                max_tokens=max_tokens,
                temperature=temperature,
                seed=seed,
            )
        except openai.APITimeoutError as error:
            what = (
                f"gave no answer within {self._client.timeout:g} s, asked {MAX_RETRIES + 1} times"
            )
            raise self._error("endpoint-slow", what, "--timeout 600, or fewer --workers") from error
        except openai.APIConnectionError as error:
            reason = str(error.__cause__ or error)[:150]
            what = f"cannot be reached, or broke off ({reason})"
            raise self._error("endpoint-down", what, "start it, then the same line") from error
        except openai.APIStatusError as error:
            raise self._refused(error.status_code, str(error.message)[:200]) from error
        except (openai.APIResponseValidationError, ValueError):  # a body that is no answer
            return Answer("", self.model, 0, 0)
        return _answer_of(found, self.model)

    def _refused(self, status: int, said: str) -> UserError:
        words = " ".join(said.split())
        what = f"answers {status} ({words})"
        if status == 402 or (status == 429 and any(word in words.lower() for word in NO_MONEY)):
            return self._error("endpoint-no-money", what, "add credit, then the same line goes on")
        if status in (401, 403):
            fix = f"export {self._key_variable}=..., or name its variable with --key-variable"
            return self._error("endpoint-key", what, fix)
        if status == 404:
            fix = f"curl {self.url.rstrip('/')}/models shows what it serves; --endpoint ends in /v1"
            return self._error("endpoint-model", what, fix)
        if status == 429:
            return self._error("endpoint-busy", what, "fewer --workers; the same line goes on")
        return self._error(
            "endpoint-refused", what, "see the endpoint's log; the same line goes on"
        )

    def _error(self, code: str, what: str, fix: str) -> UserError:
        return UserError(code, self.url, what, fix)


def _answer_of(found: Any, model: str) -> Answer:
    """What an answer says, however little of it is as the protocol wants it."""
    choices = getattr(found, "choices", None)
    message = (
        getattr(choices[0], "message", None) if isinstance(choices, list) and choices else None
    )
    text = getattr(message, "content", None)
    named, usage = getattr(found, "model", None), getattr(found, "usage", None)
    tokens = [getattr(usage, f"{kind}_tokens", None) for kind in ("prompt", "completion")]
    counts = [count if isinstance(count, int) else 0 for count in tokens]
    return Answer(
        text if isinstance(text, str) else "",
        named if isinstance(named, str) and named else model,
        *counts,
    )
