"""Chat models: weights ready to generate, with their tokenizer and chat template.

Chat and server both load models here, from a run folder, a model folder or a GGUF file. A
`GgufChatModel` has the same `name`, `folder`, `answers`, `max_positions`, `encode_prompt`,
`encode` and `answer` as a `ChatModel`; only a `ChatModel` can be batched.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from teenytinyllama import hardware
from teenytinyllama.artifacts.conversations import Message, check_prompt
from teenytinyllama.artifacts.file_hashes import verify_model
from teenytinyllama.artifacts.manifest import check_run_version, read_manifest
from teenytinyllama.artifacts.model_folder import check_model_folder
from teenytinyllama.artifacts.subword_tokenizer import MODEL_NAME
from teenytinyllama.artifacts.tokenizer import TextEncoder, load_tokenizer, tokenizer_file
from teenytinyllama.artifacts.vocabulary import check_fits, read_vocabulary
from teenytinyllama.errors import UserError
from teenytinyllama.inference.decoder import Decoder, check_supported
from teenytinyllama.inference.generation import ChatSession, SequenceState, not_finite, stream
from teenytinyllama.inference.sampling import Sampling
from teenytinyllama.inference.text_stream import TextStream
from teenytinyllama.modeling.loading import CausalModel, copy_weights, loading
from teenytinyllama.regular_files import check_regular

if TYPE_CHECKING:
    from teenytinyllama.inference.llama_cpp import GgufChatModel

AnyChatModel: TypeAlias = "ChatModel | GgufChatModel"  # llama.cpp is loaded for a GGUF file only
# The model of a run folder: its chat model where there is one, else its base model.
RUN_MODEL_FOLDERS = ("align/final", "pretrain/final")


@dataclass(frozen=True)
class ChatModel:
    """One loaded model. `answers` is false for a base model, which continues any text."""

    name: str
    folder: Path
    decoder: Decoder
    encoder: TextEncoder
    vocabulary: Sequence[bytes]
    answers: bool

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Prompt ids: the conversation by the chat template, up to the assistant's turn.

        A base model gets BOS and the last message's text: it knows no turns. Raises UserError
        for a conversation that cannot be rendered.
        """
        check_prompt(messages)
        if self.answers:
            return self.encoder.render(messages, add_generation_prompt=True)
        return self.encode(messages[-1]["content"])

    def encode(self, text: str) -> list[int]:
        """Ids of a text to continue, after BOS."""
        return [self.encoder.bos_id, *self.encoder.encode(text)]

    def embed(self, ids: Sequence[int]) -> list[float]:
        """A vector for a text's ids. Raises UserError for a model that computes NaN."""
        vector: list[float] = self.decoder.embed(ids).tolist()
        if not all(map(math.isfinite, vector)):
            raise not_finite()
        return vector

    def new_sequence(
        self, prompt: Sequence[int], max_new_tokens: int, sampling: Sampling
    ) -> SequenceState:
        """A sequence that ends at EOS, the end of the turn."""
        return SequenceState(prompt, max_new_tokens, sampling, frozenset({self.encoder.eos_id}))

    def text_stream(
        self, stop: Sequence[str] = (), *, is_continuation: bool | None = None
    ) -> TextStream:
        """A new stream from ids to text; unset, only a base model continues its prompt."""
        continues = not self.answers if is_continuation is None else is_continuation
        strips = self.encoder.adds_space and not continues
        return TextStream(self.vocabulary, stop, strip_first_space=strips)

    @property
    def max_positions(self) -> int:
        """The context: tokens of prompt and answer together."""
        return self.decoder.max_positions

    @cached_property
    def session(self) -> ChatSession:
        """The KV cache that `answer` keeps from turn to turn."""
        return ChatSession(self.decoder)

    def answer(
        self,
        prompt: Sequence[int],
        max_new_tokens: int,
        sampling: Sampling,
        stop: Sequence[str] = (),
    ) -> Generator[str, None, None]:
        """Yield one answer's text as it is generated; one answer at a time.

        What the prompt has in common with the last one and its answer is not computed again.
        Close the iterator to stop.
        """
        sequence = self.new_sequence(prompt, max_new_tokens, sampling)
        return stream(self.session, sequence, self.text_stream(stop))


def find_model_folder(path: Path) -> Path:
    """The folder with `config.json`: of a run, of a stage, or the folder itself.

    Raises UserError where there is none, or version 0.1 made the run; nothing is downloaded.
    """
    check_run_version(path)
    for name in ("", "final", *RUN_MODEL_FOLDERS):
        folder = path / name if name else path
        if (folder / "config.json").exists():
            check_regular(folder / "config.json")
            return folder
        if name in RUN_MODEL_FOLDERS:
            # Finished, and its files are gone: another model must not answer in its place.
            verify_model(folder)
    if not path.exists():
        what = "there is no such folder"
    else:
        what = f"no model here (looked for config.json, {', '.join(RUN_MODEL_FOLDERS)})"
    raise UserError("model-missing", str(path), what, "name a run folder or a model folder")


def load_any(path: Path, *, name: str = "") -> AnyChatModel:
    """Load a run, a model folder, or a `.gguf` file, which llama.cpp runs (extra `llama-cpp`).

    Raises UserError as `load_chat_model` does, and where llama.cpp is not installed.
    """
    if path.suffix.lower() != ".gguf":
        return load_chat_model(path, name=name)
    verify_model(path)
    from teenytinyllama.inference.llama_cpp import GgufChatModel

    return GgufChatModel(path, name=name)


def model_names(paths: Sequence[Path]) -> list[str]:
    """The folders' names, with as many of their parents as tell all of them apart."""
    parts = [path.resolve().parts for path in paths]
    for size in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(one[-size:]) for one in parts]
        if len(set(names)) == len(names):
            break
    return names


def describe(model: AnyChatModel) -> str:
    """A loaded model in one line: name, folder and kind."""
    kind = "answers" if model.answers else "a base model: it continues your text"
    return f"{model.name}: {model.folder} ({kind})"


def load_chat_model(
    path: Path, *, dtype: torch.dtype | None = None, device: str | None = None, name: str = ""
) -> ChatModel:
    """Load a run's model, or a model folder, for generation.

    Unset, the device is CUDA where there is one, and weights keep their stored precision, except
    that fp32 becomes bfloat16 on CUDA, and bfloat16 fp32 on any device without kernels for it.
    Raises UserError for a model that is missing, damaged or of an unsupported architecture.
    """
    folder = find_model_folder(path)
    verify_model(folder)
    tokenizer_dir = _tokenizer_folder(folder)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = _load_weights(folder).to(device)
    if dtype is None and not hardware.multiplies_bfloat16(torch.device(device)):
        dtype = torch.float32 if model.dtype == torch.bfloat16 else None
    elif dtype is None and device.startswith("cuda") and model.dtype == torch.float32:
        dtype = torch.bfloat16
    decoder = Decoder(model, dtype=dtype)
    vocabulary = read_vocabulary(tokenizer_dir)
    check_fits(vocabulary, decoder.vocab_size, folder)
    manifest = read_manifest(folder.parent)
    return ChatModel(
        name=name or path.resolve().name,
        folder=folder,
        decoder=decoder,
        encoder=load_tokenizer(tokenizer_dir),
        vocabulary=vocabulary.as_bytes(decoder.vocab_size),
        answers=manifest is None or manifest.stage != "pretrain",
    )


def _tokenizer_folder(folder: Path) -> Path:
    """Where the model's tokenizer is: beside the weights, or in the model's run."""
    places = (folder, folder.parent.parent / "tokenizer")
    for place in places:
        if tokenizer_file(place).exists():
            check_regular(tokenizer_file(place))
            return place
    what = f"no {MODEL_NAME} beside the weights nor in {places[1]}"
    raise UserError("tokenizer-missing", str(folder), what, f"copy {MODEL_NAME} there")


def _load_weights(folder: Path) -> CausalModel:
    """The model, every weight read from its files. Raises UserError where one is missing."""
    check_model_folder(folder)
    _check_config(folder)
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # its report on weights becomes our one line
    transformers_logging.disable_progress_bar()
    try:
        with contextlib.redirect_stderr(io.StringIO()), loading(folder, "save it again"):
            model: Any
            model, info = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype="auto",
                local_files_only=True,
                ignore_mismatched_sizes=True,  # raised below, with the name
                output_loading_info=True,
            )
            if getattr(model.config, "quantization_config", None) is not None:
                with torch.inference_mode(False), torch.no_grad():
                    model(torch.tensor([[0]]))  # packed weights are unpacked by their first use
    finally:
        transformers_logging.set_verbosity(before)
    for key, problem in (
        ("missing_keys", "are not in its files"),
        ("mismatched_keys", "have other shapes than config.json asks for"),
    ):
        if found := sorted(str(name) for name in info[key]):
            raise _damaged(folder, ValueError(f"{len(found)} weights {problem}: {found[0]}"))
    return cast(CausalModel, copy_weights(model).eval())


def _check_config(folder: Path) -> None:
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except ValueError as error:
        raise _damaged(folder / "config.json", error) from error
    check_supported(SimpleNamespace(**config))


def _damaged(folder: Path, error: Exception) -> UserError:
    lines = str(error).splitlines() or [type(error).__name__]
    return UserError(
        "model-damaged", str(folder), f"cannot be loaded ({lines[-1].strip()})", "save it again"
    )
