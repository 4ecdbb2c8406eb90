"""The model as lm-evaluation-harness sees it, several times faster than the harness's own backend.

Tasks, prompts and metrics are the harness's; only the forward passes are ours (`prefix_sharing`).
Any causal model that `transformers` loads works. On construction, packed and plain forward passes
are compared on random tokens; a model that cannot take a mask of our own (another attention, a
sliding window, no position ids) is scored plainly, request by request.
"""

# B rows, L tokens of a row, F of its prefill, P of the prefix, K predicted positions, V vocabulary

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
from teenytinyllama.inference.onednn_linear import faster_linear
from teenytinyllama.process_group import ALONE, ProcessGroup
from teenytinyllama.progress import Progress
from teenytinyllama.stages.evaluate import prefix_sharing
from teenytinyllama.stages.evaluate.prefill import expand_cache, prefill
from teenytinyllama.stages.evaluate.prefix_sharing import LoglikelihoodRequest, PackedBatch
from teenytinyllama.stages.evaluate.result_cache import (
    Loglikelihood,
    LoglikelihoodCache,
    request_key,
)

REVISION = 2  # grows when the same request may get other bits
SOFTMAX_ROWS = 512  # rows of logits converted to float32 at a time
MAX_PACKING_ERROR = 1e-3  # nats; a model that differs more on random tokens is scored plainly

BATCHES_PER_ROUND = 16

logger = logging.getLogger(__name__)

Results = dict[LoglikelihoodRequest, Loglikelihood]


class PackedLM(TemplateLM):  # type: ignore[misc]
    """Scores the harness's requests with one `transformers` model.

    `identity` is what the results depend on (hashes of weights and tokenizer, precision); they are
    cached in `cache_dir`. Several processes share the forward passes, and each gets all results,
    the bits of one process. `batch_tokens` bounds a forward pass: speed and memory, not results.
    `encodes_apart`: context and continuation are tokenized separately, as the harness did until
    2023; else together, so that tokens are those of running text.
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
        cache_dir: Path | None = None,
        processes: ProcessGroup = ALONE,
        title: str = "evaluate",
    ) -> None:
        super().__init__()
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.batch_tokens, self.max_length, self.add_bos = batch_tokens, max_length, add_bos
        self.encodes_apart = encodes_apart
        self.title = title
        self.identity = {**(identity or {}), "batch_tokens": batch_tokens, "revision": REVISION}
        self.cache_dir, self.processes = cache_dir, processes
        self.truncated: set[tuple[str, str]] = set()  # (context, continuation) cut on the left
        self.num_tokens: dict[tuple[str, str], int] = {}  # of each continuation
        self._device = next(model.parameters()).device
        self._prefix_cache: tuple[prefix_sharing.Ids, DynamicCache] = ((), DynamicCache())
        self._encoded: tuple[str, list[int]] = ("", [])
        parameters = inspect.signature(model.forward).parameters
        self.is_packed = "position_ids" in parameters and self._can_pack()

    # --- the harness's interface ---------------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        """The end-of-text token."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What precedes a continuation without context: BOS, or EOS where there is none."""
        bos = self.tokenizer.bos_token_id
        return int(bos) if bos is not None else self.eot_token_id

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Ids of a text, with BOS as `add_bos` says (None: as the tokenizer does)."""
        if string == self._encoded[0] and add_special_tokens is None:
            return self._encoded[1]
        special = self.add_bos if add_special_tokens is None else add_special_tokens
        if add_special_tokens is None and string.startswith(
            self.tokenizer.decode(self.prefix_token_id)
        ):
            special = False
        options = {} if special is None else {"add_special_tokens": special}
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
        """Log-probability of each continuation after its context, and whether it is greedy."""
        results: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return results

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> list[float]:
        """Not supported: `inference.bits_per_byte` scores whole texts."""
        raise UserError(
            "task-rolling",
            "evaluate.tasks",
            "a task with output_type loglikelihood_rolling scores whole texts",
            "leave it out: held-out text is scored by the stage itself",
        )

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> list[str]:
        """Not supported: no task here generates text."""
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
            self._check_length(names, context, continuation)
            request = prefix_sharing.truncate_left(context, continuation, self.max_length)
            if len(request.context) < len(context):
                self.truncated.add(names)
            # Not in `_encode_pair`: the harness does not call it for an empty context.
            self.num_tokens[names] = len(continuation)
            fitted.append(request)
        found = self.score(fitted)
        return [tuple(found[request_key(request)]) for request in fitted]  # type: ignore[misc]

    def _check_length(
        self, names: tuple[str, str], context: list[int], continuation: list[int]
    ) -> None:
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

    # --- scoring -------------------------------------------------------------------------------

    def score(self, requests: Iterable[LoglikelihoodRequest]) -> dict[str, Loglikelihood]:
        """Results of all requests by `request_key`; cached ones are not computed again."""
        unique = {request_key(request): request for request in requests}
        processes = self.processes
        cache = LoglikelihoodCache(
            self.cache_dir if processes.is_leader else None,
            {**self.identity, "packed": self.is_packed},
            unique,
        )
        cache.results = processes.broadcast(cache.results)
        missing = [
            batch
            for batch in prefix_sharing.plan_batches(list(unique.values()), self.batch_tokens)
            if any(request_key(request) not in cache.results for request in batch.requests())
        ]
        total = sum(len(batch.requests()) for batch in missing)
        with (
            torch.inference_mode(),
            faster_linear(self.model),
            Progress(self.title, total=total, unit="choices") as progress,
        ):
            # Few meetings: those who wait for the slowest batch of a round do nothing.
            size = 1 if processes.count == 1 else BATCHES_PER_ROUND * processes.count
            for at in range(0, len(missing), size):
                mine = processes.share(missing[at : at + size])
                for results in processes.collect([self._score_batch(batch) for batch in mine]):
                    self._check_finite(results)
                    cache.add({request_key(request): value for request, value in results.items()})
                    progress.advance(len(results))
        self._prefix_cache = ((), DynamicCache())
        return cache.results

    def _check_finite(self, results: Results) -> None:
        if not all(math.isfinite(result.logprob) for result in results.values()):
            raise UserError(
                "logprob-not-finite",
                self.title,
                "the model gives a log-probability that is NaN or infinite",
                "its weights are damaged, or too large for this precision: try fp32",
            )

    def _score_batch(self, batch: PackedBatch) -> Results:
        """Score a batch, or its halves where it does not fit into the device's memory."""
        try:
            return self._score_packed(batch) if self.is_packed else self._score_plainly(batch)
        except torch.OutOfMemoryError:
            if len(batch.rows) == 1:
                raise
        torch.cuda.empty_cache()
        middle = len(batch.rows) // 2
        first, second = batch.rows[:middle], batch.rows[middle:]
        return {
            **self._score_batch(PackedBatch(batch.prefix, first)),
            **self._score_batch(PackedBatch(batch.prefix, second)),
        }

    def _score_packed(self, batch: PackedBatch) -> Results:
        places: dict[tuple[int, int], int] = {}  # (row, column) of a token -> its logits' number
        branches: list[tuple[LoglikelihoodRequest, list[int]]] = []
        for number, row in enumerate(batch.rows):
            offset = 0
            for tree in row.trees:
                for branch in tree.branches:
                    own = [(number, offset + node) for node in branch.nodes]
                    indices = [places.setdefault(place, len(places)) for place in own]
                    branches.append((branch.request, indices))
                offset += tree.size
        return _loglikelihoods(branches, self._forward(batch, list(places)))

    def _forward(self, batch: PackedBatch, places: list[tuple[int, int]]) -> torch.Tensor:
        """Logits at the given (row, column) places: (K, V)."""
        device, dtype = self._device, self.model.dtype
        visible = torch.from_numpy(prefix_sharing.attention_mask(batch)).to(device)
        mask = torch.zeros(visible.shape, dtype=dtype, device=device)  # (B, L, P + F + L)
        mask.masked_fill_(~visible, torch.finfo(dtype).min)
        options: dict[str, Any] = {"use_cache": False}
        if batch.prefix or batch.prefill_length:
            options = {"past_key_values": self._prefill(batch), "use_cache": True}
        return self._logits(
            torch.from_numpy(prefix_sharing.input_ids(batch)).to(device),
            places,
            position_ids=torch.from_numpy(prefix_sharing.position_ids(batch)).to(device),
            attention_mask=mask[:, None],
            **options,
        )

    def _prefill(self, batch: PackedBatch) -> DynamicCache:
        """KV cache of the prefix, which is kept between batches, and of each row's prefill."""
        cache = DynamicCache()
        if batch.prefix:
            if self._prefix_cache[0] != batch.prefix:
                shared = DynamicCache()
                prefill(self.model, torch.tensor([batch.prefix], device=self._device), shared)
                self._prefix_cache = (batch.prefix, shared)
            cache = expand_cache(self._prefix_cache[1], len(batch.rows))
        if batch.prefill_length:
            ids = torch.from_numpy(prefix_sharing.prefill_ids(batch)).to(self._device)
            prefill(self.model, ids, cache)
        return cache

    def _logits(
        self, ids: torch.Tensor, places: list[tuple[int, int]], **options: Any
    ) -> torch.Tensor:
        """Logits of `ids` at the given (row, column) places: (K, V).

        The head, a fifth of a small model's work, is computed at these places only.
        """
        rows = torch.tensor([row for row, _ in places], device=ids.device)
        columns = torch.tensor([column for _, column in places], device=ids.device)
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

    def _score_plainly(self, batch: PackedBatch) -> Results:
        """Each request in an ordinary forward pass of its own."""
        results = {}
        for request in batch.requests():
            ids = torch.tensor([[*request.context, *request.continuation[:-1]]])
            count = len(request.continuation)
            places = [(0, place) for place in range(ids.shape[1] - count, ids.shape[1])]
            logits = self._logits(ids.to(self._device), places, use_cache=False)
            results.update(_loglikelihoods([(request, list(range(count)))], logits))
        return results

    # --- does packing work for this model? ------------------------------------------------------

    def _can_pack(self) -> bool:
        """Whether packed and plain scoring agree on random tokens."""
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
            prefix_sharing.truncate_left(shared[:before] + context, draw(length), self.max_length)
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
            logger.info(f"{self.title}: scored request by request, packing fails ({error})")
            return False
        finally:
            self._prefix_cache = ((), DynamicCache())
        worst = max(abs(packed[key].logprob - plain[key].logprob) for key in plain)
        limit = MAX_PACKING_ERROR if self.model.dtype == torch.float32 else 0.5
        return bool(worst <= limit)


def _loglikelihoods(
    branches: list[tuple[LoglikelihoodRequest, list[int]]], logits: torch.Tensor
) -> Results:
    """Results from the logits (K, V), given the indices at which each request is predicted.

    Softmax in float32, sums in float64.
    """
    normalizers, best = [], []
    for part in torch.split(logits, SOFTMAX_ROWS):
        normalizers.append(part.float().logsumexp(-1))
        best.append(part.argmax(-1))
    rows = torch.tensor([row for _, indices in branches for row in indices], device=logits.device)
    target = torch.tensor(
        [token for request, _ in branches for token in request.continuation], device=logits.device
    )
    logprobs = (logits[rows, target].float() - torch.cat(normalizers)[rows]).double().cpu()
    greedy = (torch.cat(best)[rows] == target).cpu()
    results = {}
    start = 0
    for request, indices in branches:
        own = slice(start, start + len(indices))
        results[request] = Loglikelihood(float(logprobs[own].sum()), bool(greedy[own].all()))
        start += len(indices)
    return results
