"""The model as lm-evaluation-harness sees it, several times faster than its own backend.

Tasks, prompts and metrics are the harness's; only the forward passes are ours (see `packing`).
Any causal model that `transformers` loads goes through this class. On loading, packed and plain
forward passes are compared on random tokens; a model that cannot take a mask of our own (another
attention, a sliding window, no position ids) is scored plainly, request by request.
"""

# B lanes, L tokens of a lane, S of its stem, P of the prefix, K predicted positions, V vocabulary

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lm_eval.api.model import TemplateLM
from transformers import DynamicCache

from teenytinyllama.errors import UserError
from teenytinyllama.inference.onednn_linear import faster_linear
from teenytinyllama.progress import Progress
from teenytinyllama.stages.evaluate import prefix_sharing
from teenytinyllama.stages.evaluate.prefix_sharing import Batch, Request
from teenytinyllama.stages.evaluate.request_log import Answer, RequestLog, request_key

REVISION = 2  # grows when the same request may get other bits
SOFTMAX_ROWS = 512  # rows of logits turned to float32 at a time
MAX_PACKING_ERROR = 1e-3  # nats; a model that differs more on random tokens is scored plainly

_log = logging.getLogger(__name__)


class PackedLM(TemplateLM):  # type: ignore[misc]
    """Scores requests with one `transformers` model.

    `identity` names what the answers depend on (hashes of weights and tokenizer, precision);
    answers are kept under `log_dir`. `batch_tokens` bounds a forward pass: speed and memory, not
    results. `encodes_apart`: context and continuation are turned into tokens one by one, as the
    harness did until 2023; else together, so that a piece is what it is in running text.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        batch_tokens: int,
        max_length: int,
        add_bos: bool | None = None,
        encodes_apart: bool = False,
        identity: dict[str, Any] | None = None,
        log_dir: Path | None = None,
        title: str = "evaluate",
    ) -> None:
        super().__init__()
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.batch_tokens, self.max_length, self.add_bos = batch_tokens, max_length, add_bos
        self.encodes_apart = encodes_apart
        self.title = title
        self.identity = {**(identity or {}), "batch_tokens": batch_tokens, "revision": REVISION}
        self.log_dir = log_dir
        self._device = next(model.parameters()).device
        parameters = inspect.signature(model.forward).parameters
        self.truncated: set[tuple[str, str]] = set()
        self.num_tokens: dict[tuple[str, str], int] = {}
        self._num_layers = int(model.config.get_text_config().num_hidden_layers)
        self._prefix: tuple[prefix_sharing.Ids, list[tuple[torch.Tensor, torch.Tensor]]] = ((), [])
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
        pair: tuple[list[int], list[int]]
        if self.encodes_apart:
            pair = self.tok_encode(context), self.tok_encode(continuation)
        else:
            pair = super()._encode_pair(context, continuation)
        return pair

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Log-probability of each continuation after its context."""
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return answers

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> list[float]:
        """Not offered: held-out text is scored by `training.heldout`."""
        raise UserError(
            "task-rolling",
            "evaluate.tasks",
            "a task with output_type loglikelihood_rolling scores whole texts",
            "leave it out: held-out text is scored by the stage itself",
        )

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
            if not context or not continuation:
                raise UserError(
                    "choice-no-tokens",
                    repr(names[1][:60]),
                    f"after {names[0][-60:]!r} the tokenizer leaves no token to "
                    f"{'predict' if context else 'predict it from'}",
                    "correct this item, or let the prompt end in a letter or sign",
                )
            if len(continuation) > self.max_length:
                raise UserError(
                    "choice-too-long",
                    repr(names[1][:60]),
                    f"a choice of {len(continuation)} tokens, the model reads {self.max_length}",
                    "leave this item out, or use a model with a longer context",
                )
            request = prefix_sharing.fit(context, continuation, self.max_length)
            if len(request.context) < len(context):
                self.truncated.add(names)
            # Here and not where pairs are encoded: the harness encodes an empty context itself.
            self.num_tokens[names] = len(continuation)
            fitted.append(request)
        found = self.score(fitted)
        return [tuple(found[request_key(request)]) for request in fitted]  # type: ignore[misc]

    # --- scoring -------------------------------------------------------------------------------

    def score(self, requests: Iterable[Request]) -> dict[str, Answer]:
        """Answers to all requests, by `request_key`; those given before a kill are read back."""
        unique = {request_key(request): request for request in requests}
        log = RequestLog(self.log_dir, {**self.identity, "packed": self.is_packed}, unique)
        missing = [
            batch
            for batch in prefix_sharing.plan_batches(list(unique.values()), self.batch_tokens)
            if any(request_key(request) not in log.answers for request in batch.requests())
        ]
        total = sum(len(batch.requests()) for batch in missing)
        with (
            torch.inference_mode(),
            faster_linear(self.model),
            Progress(self.title, total=total, unit="choices") as progress,
        ):
            for batch in missing:
                answers = self._score_batch(batch)
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

    def _score_batch(self, batch: Batch) -> dict[Request, Answer]:
        """A batch, or, where the device's memory does not hold it, its halves."""
        try:
            return self._score_packed(batch) if self.is_packed else self._score_plainly(batch)
        except torch.OutOfMemoryError:
            if len(batch.lanes) == 1:
                raise
        torch.cuda.empty_cache()
        middle = len(batch.lanes) // 2
        first, second = batch.lanes[:middle], batch.lanes[middle:]
        return {
            **self._score_batch(Batch(batch.prefix, first)),
            **self._score_batch(Batch(batch.prefix, second)),
        }

    def _score_packed(self, batch: Batch) -> dict[Request, Answer]:
        wanted: dict[tuple[int, int], int] = {}  # (lane, place in it) -> row of the logits
        branches: list[tuple[Request, list[int]]] = []
        for number, lane in enumerate(batch.lanes):
            offset = 0
            for tree in lane.trees:
                for branch in tree.branches:
                    places = [(number, offset + node) for node in branch.nodes]
                    rows = [wanted.setdefault(place, len(wanted)) for place in places]
                    branches.append((branch.request, rows))
                offset += tree.size
        logits = self._forward(batch, list(wanted))  # (K, V)
        return _read_off(branches, logits)

    def _forward(self, batch: Batch, wanted: list[tuple[int, int]]) -> torch.Tensor:
        """Logits at the wanted (lane, place) pairs: (K, V)."""
        device, dtype = self._device, self.model.dtype
        seen = torch.from_numpy(prefix_sharing.visibility(batch)).to(device)  # (B, L, P + S + L)
        mask = torch.zeros(seen.shape, dtype=dtype, device=device)
        mask.masked_fill_(~seen, torch.finfo(dtype).min)
        options: dict[str, Any] = {"use_cache": False}
        if batch.prefix or batch.stem_length:
            options = {"past_key_values": self._read_before(batch), "use_cache": True}
        return self._logits(
            torch.from_numpy(prefix_sharing.tokens(batch)).to(device),
            wanted,
            position_ids=torch.from_numpy(prefix_sharing.positions(batch)).to(device),
            attention_mask=mask[:, None],
            **options,
        )

    def _read_before(self, batch: Batch) -> DynamicCache:
        """Keys and values of the prefix, kept between batches, and of each lane's stem."""
        if self._prefix[0] != batch.prefix:
            ids = torch.tensor([batch.prefix], device=self._device)
            cache = self._read(ids, KeysAndValues(self._num_layers))
            self._prefix = (batch.prefix, [(layer.keys, layer.values) for layer in cache.layers])
        cache = KeysAndValues(self._num_layers)
        if batch.prefix:
            cache.fill(self._prefix[1], len(batch.lanes))
        if batch.stem_length:
            self._read(torch.from_numpy(prefix_sharing.stems(batch)).to(self._device), cache)
        return cache.rest()

    def _read(self, ids: torch.Tensor, cache: KeysAndValues) -> KeysAndValues:
        """Run the model over `ids` for keys and values alone; stops in the last layer."""
        places = torch.arange(ids.shape[1], device=ids.device) + cache.get_seq_length()
        with suppress(LastLayerReached):
            self.model(
                input_ids=ids,
                position_ids=places[None].expand(ids.shape[0], -1),
                past_key_values=cache,
                use_cache=True,
            )
        return cache

    def _logits(
        self, ids: torch.Tensor, wanted: list[tuple[int, int]], **options: Any
    ) -> torch.Tensor:
        """Logits of `ids` at the wanted (row, column) pairs, (K, V).

        The head, a fifth of a small model's work, sees these places and no others.
        """
        rows = torch.tensor([row for row, _ in wanted], device=ids.device)
        columns = torch.tensor([column for _, column in wanted], device=ids.device)
        head = self.model.get_output_embeddings()
        if head is None:
            logits: torch.Tensor = self.model(input_ids=ids, **options).logits
            return logits[rows, columns]
        hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][rows, columns][None],))
        try:
            found: torch.Tensor = self.model(input_ids=ids, **options).logits
        finally:
            hook.remove()
        return found[0]

    def _score_plainly(self, batch: Batch) -> dict[Request, Answer]:
        """Each request in a forward pass of its own, as it stands."""
        answers = {}
        for request in batch.requests():
            ids = torch.tensor([[*request.context, *request.continuation[:-1]]])
            count = len(request.continuation)
            places = [(0, place) for place in range(ids.shape[1] - count, ids.shape[1])]
            logits = self._logits(ids.to(self._device), places, use_cache=False)
            answers.update(_read_off([(request, list(range(count)))], logits))
        return answers

    # --- is packing right for this model? -------------------------------------------------------

    def _can_pack(self) -> bool:
        config = self.model.config
        window = getattr(config, "sliding_window", None)
        if window and getattr(config, "use_sliding_window", True) and window < self.max_length:
            return False
        generator = np.random.Generator(np.random.PCG64(0))
        high = min(int(config.vocab_size), 1000)

        def draw(count: int) -> prefix_sharing.Ids:
            return tuple(int(i) for i in generator.integers(0, high, count))

        shared = draw(prefix_sharing.MIN_PREFIX_TOKENS + 2)
        requests = [
            prefix_sharing.fit(shared[:before] + context, draw(length), self.max_length)
            for before in (len(shared), 2)
            for context in (draw(3), draw(9), draw(1))
            for length in (1, 2, 4)
        ]
        batches = prefix_sharing.plan_batches(requests, 64, max_packed_context=5)
        try:
            with torch.inference_mode():
                plain = {k: v for batch in batches for k, v in self._score_plainly(batch).items()}
            with torch.inference_mode(), faster_linear(self.model):
                packed = {k: v for batch in batches for k, v in self._score_packed(batch).items()}
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
            _log.info("packed scoring is not possible for this model: %s", error)
            return False
        finally:
            self._prefix = ((), [])
        worst = max(abs(packed[key].logprob - plain[key].logprob) for key in plain)
        limit = MAX_PACKING_ERROR if self.model.dtype == torch.float32 else 0.5
        return bool(worst <= limit)


class LastLayerReached(Exception):  # noqa: N818 (it is no error)
    """The last layer's keys and values are known: nothing else of the pass is wanted."""


class KeysAndValues(DynamicCache):  # type: ignore[misc]
    """A cache that ends the forward pass as soon as it is full.

    The last layer's attention and everything after it serve only predictions; for text that is
    merely read before a question they are wasted work, about a tenth of the whole.
    """

    def __init__(self, num_layers: int) -> None:
        super().__init__()
        self._num_layers = num_layers

    def update(
        self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kwargs: Any
    ) -> Any:
        """Append one layer's keys and values."""
        found = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        if layer_idx == self._num_layers - 1:
            raise LastLayerReached
        return found

    def fill(self, layers: list[tuple[torch.Tensor, torch.Tensor]], num_lanes: int) -> None:
        """Start from keys and values read before, the same for each lane."""
        for index, (keys, values) in enumerate(layers):
            super().update(
                keys.expand(num_lanes, -1, -1, -1), values.expand(num_lanes, -1, -1, -1), index
            )

    def rest(self) -> DynamicCache:
        """The same keys and values in a cache that lets a forward pass end."""
        plain = DynamicCache()
        plain.layers = self.layers
        return plain


def _read_off(
    branches: list[tuple[Request, list[int]]], logits: torch.Tensor
) -> dict[Request, Answer]:
    """Answers from the logits (K, V), given the rows in which each request is predicted.

    Softmax in float32, sums in float64.
    """
    normal, best = [], []
    for part in torch.split(logits, SOFTMAX_ROWS):
        normal.append(part.float().logsumexp(-1))
        best.append(part.argmax(-1))
    rows = torch.tensor([row for _, places in branches for row in places], device=logits.device)
    target = torch.tensor(
        [token for request, _ in branches for token in request.continuation], device=logits.device
    )
    logprobs = (logits[rows, target].float() - torch.cat(normal)[rows]).double().cpu()
    greedy = (torch.cat(best)[rows] == target).cpu()
    answers = {}
    start = 0
    for request, places in branches:
        own = slice(start, start + len(places))
        answers[request] = Answer(float(logprobs[own].sum()), bool(greedy[own].all()))
        start += len(places)
    return answers
