"""The model as lm-evaluation-harness sees it, several times faster than its own backend.

Tasks, prompts and metrics are the harness's; only the forward passes are ours (see `packing`).
Any causal model that `transformers` loads goes through this class. On loading, packed and plain
forward passes are compared on random tokens; a model that cannot take a mask of our own (another
attention, a sliding window, no position ids) is scored plainly, request by request.
"""

# L tokens of a row, P tokens of its prefix, K predicted positions, V vocabulary

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lm_eval.api.model import TemplateLM
from transformers import DynamicCache

from teenytinyllama.errors import UserError
from teenytinyllama.progress import Progress
from teenytinyllama.stages.evaluate import packing
from teenytinyllama.stages.evaluate.packing import Request, Row
from teenytinyllama.stages.evaluate.request_log import Answer, RequestLog, request_key

REVISION = 1  # grows when the same request may get other bits
MAX_PACKING_ERROR = 1e-3  # nats; a model that differs more on random tokens is scored plainly

_log = logging.getLogger(__name__)


class PackedLM(TemplateLM):  # type: ignore[misc]
    """Scores requests with one `transformers` model.

    `identity` names what the answers depend on (hashes of weights and tokenizer, precision);
    answers are kept under `log_dir`. `row_tokens` bounds a forward pass: speed and memory, not
    results.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        row_tokens: int,
        max_length: int,
        add_bos: bool | None = None,
        identity: dict[str, Any] | None = None,
        log_dir: Path | None = None,
        title: str = "evaluate",
    ) -> None:
        super().__init__()
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.row_tokens, self.max_length, self.add_bos = row_tokens, max_length, add_bos
        self.title = title
        self.identity = {**(identity or {}), "row_tokens": row_tokens, "revision": REVISION}
        self.log_dir = log_dir
        self._device = next(model.parameters()).device
        parameters = inspect.signature(model.forward).parameters
        self._keeps_logits = "logits_to_keep" in parameters
        self.num_truncated = 0
        self.num_tokens: dict[tuple[str, str], int] = {}
        self._prefix: tuple[packing.Ids, list[tuple[torch.Tensor, torch.Tensor]]] = ((), [])
        self._encoded: tuple[str, list[int]] = ("", [])
        self.is_packed = "position_ids" in parameters and self._can_pack()

    # --- what the harness asks of a model ------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        """The end-of-text token."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without context: BOS where there is one."""
        bos = self.tokenizer.bos_token_id
        return int(bos) if bos is not None else self.eot_token_id

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Ids of a text, with BOS as `add_bos` says (None: as the tokenizer does)."""
        if string == self._encoded[0] and add_special_tokens is None:
            return self._encoded[1]
        asked = self.add_bos if add_special_tokens is None else add_special_tokens
        if add_special_tokens is None and string.startswith(
            self.tokenizer.decode(self.prefix_token_id)
        ):
            asked = False
        options = {} if asked is None else {"add_special_tokens": asked}
        ids: list[int] = self.tokenizer.encode(string, **options)
        return ids

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """As the harness does; a context shared by several choices is encoded once."""
        stripped = context.rstrip()
        if stripped and stripped != self._encoded[0]:
            self._encoded = ("", [])
            self._encoded = (stripped, self.tok_encode(stripped))
        pair: tuple[list[int], list[int]] = super()._encode_pair(context, continuation)
        self.num_tokens[context, continuation] = len(pair[1])
        return pair

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Log-probability of each continuation after its context."""
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return answers

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> list[float]:
        """Not offered: held-out text is scored by `training.heldout`."""
        raise NotImplementedError("use training.heldout for whole texts")

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> list[str]:
        """Not offered: no task here generates text."""
        raise UserError(
            "task-generates",
            "evaluate.tasks",
            "a task with output_type generate_until needs free generation",
            "use a multiple_choice or loglikelihood task",
        )

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = True,
        **_: Any,
    ) -> list[tuple[float, bool]]:
        fitted = []
        for names, context, continuation in requests:
            if len(continuation) > self.max_length:
                raise UserError(
                    "choice-too-long",
                    repr(names[1][:60]),
                    f"a choice of {len(continuation)} tokens, the model reads {self.max_length}",
                    "leave this item out, or use a model with a longer context",
                )
            request = packing.fit(context, continuation, self.max_length)
            self.num_truncated += len(request.context) < len(context)
            fitted.append(request)
        found = self.score(fitted)
        return [tuple(found[request_key(request)]) for request in fitted]  # type: ignore[misc]

    # --- scoring -------------------------------------------------------------------------------

    def score(self, requests: Iterable[Request]) -> dict[str, Answer]:
        """Answers to all requests, by `request_key`; rows answered before a kill are read back."""
        unique = {request_key(request): request for request in requests}
        log = RequestLog(self.log_dir, {**self.identity, "packed": self.is_packed}, unique)
        rows = packing.plan_rows(list(unique.values()), self.row_tokens)
        missing = [
            row
            for row in rows
            if any(request_key(request) not in log.answers for request in row.requests())
        ]
        total = sum(len(row.requests()) for row in missing)
        with torch.inference_mode(), Progress(self.title, total=total, unit="choices") as progress:
            for row in missing:
                answers = self._score_row(row)
                self._check(answers)
                log.add({request_key(request): answer for request, answer in answers.items()})
                progress.advance(len(answers))
        self._prefix = ((), [])
        return log.answers

    def _check(self, answers: dict[Request, Answer]) -> None:
        if not all(math.isfinite(answer.logprob) for answer in answers.values()):
            raise UserError(
                "logprob-not-finite",
                self.title,
                "the model gives a log-probability that is not a number",
                "its weights are damaged, or too large for this precision: try fp32",
            )

    def _score_row(self, row: Row) -> dict[Request, Answer]:
        """A row, or, where the device's memory does not hold it, its halves."""
        try:
            return self._score_packed(row) if self.is_packed else self._score_plainly(row)
        except torch.OutOfMemoryError:
            if len(row.trees) == 1:
                raise
        torch.cuda.empty_cache()
        middle = len(row.trees) // 2
        first, second = Row(row.prefix, row.trees[:middle]), Row(row.prefix, row.trees[middle:])
        return {**self._score_row(first), **self._score_row(second)}

    def _score_packed(self, row: Row) -> dict[Request, Answer]:
        offsets = np.cumsum([0, *(tree.size for tree in row.trees)])
        wanted = sorted(
            {
                int(offset) + node
                for offset, tree in zip(offsets, row.trees, strict=False)
                for branch in tree.branches
                for node in branch.nodes
            }
        )
        place = {node: index for index, node in enumerate(wanted)}
        logits = self._forward(row, wanted)  # (K, V)
        return _read_off(row, offsets, place, logits)

    def _forward(self, row: Row, wanted: list[int]) -> torch.Tensor:
        """Logits at the wanted nodes of a row."""
        device, dtype = self._device, self.model.dtype
        seen = torch.from_numpy(packing.visibility(row)).to(device)  # (L, P + L)
        mask = torch.zeros(seen.shape, dtype=dtype, device=device)
        mask.masked_fill_(~seen, torch.finfo(dtype).min)
        options: dict[str, Any] = {"use_cache": False}
        if row.prefix:
            options = {"past_key_values": self._read_prefix(row.prefix), "use_cache": True}
        ids = [token for tree in row.trees for token in tree.tokens]
        return self._logits(
            torch.tensor([ids], device=device),
            torch.tensor(wanted, device=device),
            position_ids=torch.tensor([packing.positions(row)], device=device),
            attention_mask=mask[None, None],
            **options,
        )

    def _read_prefix(self, prefix: packing.Ids) -> DynamicCache:
        """Keys and values of the prefix, computed once for all rows that follow each other."""
        if self._prefix[0] != prefix:
            cache = DynamicCache()
            ids = torch.tensor([prefix], device=self._device)
            self._logits(
                ids, torch.tensor([len(prefix) - 1]), past_key_values=cache, use_cache=True
            )
            self._prefix = (prefix, [(layer.keys, layer.values) for layer in cache.layers])
        fresh = DynamicCache()
        for index, (keys, values) in enumerate(self._prefix[1]):
            fresh.update(keys, values, index)
        return fresh

    def _logits(self, ids: torch.Tensor, wanted: torch.Tensor, **options: Any) -> torch.Tensor:
        """Logits of the first row of `ids` at the wanted positions, (K, V)."""
        wanted = wanted.to(ids.device)
        if self._keeps_logits:
            options["logits_to_keep"] = wanted
            return self.model(input_ids=ids, **options).logits[0]  # type: ignore[no-any-return]
        return self.model(input_ids=ids, **options).logits[0, wanted]  # type: ignore[no-any-return]

    def _score_plainly(self, row: Row) -> dict[Request, Answer]:
        """Each request in a forward pass of its own, as it stands."""
        answers = {}
        for request in row.requests():
            ids = torch.tensor([[*request.context, *request.continuation[:-1]]])
            count = len(request.continuation)
            wanted = torch.arange(ids.shape[1] - count, ids.shape[1])
            logits = self._logits(ids.to(self._device), wanted, use_cache=False)
            answers[request] = _answer(logits, torch.tensor(request.continuation))
        return answers

    # --- is packing right for this model? -------------------------------------------------------

    def _can_pack(self) -> bool:
        config = self.model.config
        window = getattr(config, "sliding_window", None)
        if window and getattr(config, "use_sliding_window", True) and window < self.max_length:
            return False
        generator = np.random.Generator(np.random.PCG64(0))
        high = min(int(config.vocab_size), 1000)

        def draw(count: int) -> packing.Ids:
            return tuple(int(i) for i in generator.integers(0, high, count))

        shared = draw(packing.MIN_PREFIX_TOKENS + 2)
        requests = [
            packing.fit(shared + context, draw(length), self.max_length)
            for context in (draw(3), draw(5), draw(1))
            for length in (1, 2, 4)
        ]
        rows = packing.plan_rows(requests, 64)
        try:
            with torch.inference_mode():
                plain = {k: v for row in rows for k, v in self._score_plainly(row).items()}
                packed = {k: v for row in rows for k, v in self._score_packed(row).items()}
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
            _log.info("packed scoring is not possible for this model: %s", error)
            return False
        finally:
            self._prefix = ((), [])
        worst = max(abs(packed[key].logprob - plain[key].logprob) for key in plain)
        limit = MAX_PACKING_ERROR if self.model.dtype == torch.float32 else 0.5
        return bool(worst <= limit)


def _read_off(
    row: Row, offsets: Any, place: dict[int, int], logits: torch.Tensor
) -> dict[Request, Answer]:
    """Answers of a row from the logits (K, V) of its predicting nodes; softmax in float32."""
    logits = logits.float()
    normal = logits.logsumexp(-1)  # (K,)
    best = logits.argmax(-1)  # (K,)
    nodes: list[int] = []
    targets: list[int] = []
    lengths, requests = [], []
    for offset, tree in zip(offsets, row.trees, strict=False):
        for branch in tree.branches:
            nodes.extend(place[int(offset) + node] for node in branch.nodes)
            targets.extend(branch.request.continuation)
            lengths.append(len(branch.nodes))
            requests.append(branch.request)
    at = torch.tensor(nodes, device=logits.device)
    target = torch.tensor(targets, device=logits.device)
    logprobs = (logits[at, target] - normal[at]).double().cpu()
    greedy = (best[at] == target).cpu()
    answers = {}
    start = 0
    for request, length in zip(requests, lengths, strict=True):
        part = slice(start, start + length)
        answers[request] = Answer(float(logprobs[part].sum()), bool(greedy[part].all()))
        start += length
    return answers


def _answer(logits: torch.Tensor, continuation: torch.Tensor) -> Answer:
    """One request's answer from its own logits, (K, V)."""
    logits = logits.float()
    target = continuation.to(logits.device)
    chosen = logits.gather(-1, target[:, None])[:, 0]
    logprob = float((chosen - logits.logsumexp(-1)).double().sum())
    return Answer(logprob, bool((logits.argmax(-1) == target).all()))
