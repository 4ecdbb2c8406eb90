"""A model that can be talked to: weights ready to generate, its tokenizer, its way of being asked.

Chat and server load models here, so that both mean the same by a run folder or a model folder.
`load_any` takes GGUF files as well: what it gives has `name`, `folder`, `answers`,
`max_positions`, `prompt_of` and `answer` in any case; only a `ChatModel` can be batched.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import LlamaForCausalLM
from transformers.utils import logging as transformers_logging

from teenytinyllama.artifacts.conversations import Message, problem_with
from teenytinyllama.artifacts.manifest import read_manifest
from teenytinyllama.artifacts.model_folder import check_model_folder
from teenytinyllama.artifacts.subword_tokenizer import MODEL_NAME
from teenytinyllama.artifacts.tokenizer import TextEncoder, load_tokenizer, tokenizer_file
from teenytinyllama.artifacts.vocabulary import check_fits, read_vocabulary
from teenytinyllama.errors import UserError
from teenytinyllama.inference.decoder import Decoder, check_supported
from teenytinyllama.inference.generation import Dialogue, Request, Sampling, TextStream, stream

if TYPE_CHECKING:
    from teenytinyllama.inference.llama_cpp import GgufChatModel

# What a run folder stands for: its chat model where there is one, else its base model.
FOLDERS_OF_A_RUN = ("align/final", "pretrain/final")


@dataclass(frozen=True)
class ChatModel:
    """One loaded model. `answers` is false for a base model, which goes on with any text."""

    name: str
    folder: Path
    decoder: Decoder
    encoder: TextEncoder
    vocabulary: Sequence[bytes]
    answers: bool

    def prompt_of(self, messages: Sequence[Message]) -> list[int]:
        """Ids that the model goes on from: the conversation, then its own turn.

        A base model gets BOS and the last message's words: it knows no turns. Raises UserError
        for a conversation that cannot be rendered.
        """
        fault = problem_with(messages)
        if fault is None and messages[-1]["role"] != "user":
            fault = "the last message is not the user's"
        if fault:
            raise UserError("conversation", "messages", fault, "correct the messages")
        if self.answers:
            return self.encoder.render(messages, add_generation_prompt=True)
        return [self.encoder.bos_id, *self.encoder.encode(messages[-1]["content"])]

    def request(
        self, prompt: Sequence[int], max_new_tokens: int, sampling: Sampling | None = None
    ) -> Request:
        """A request that ends at the end of the turn."""
        stop_ids = frozenset({self.encoder.eos_id})
        return Request(prompt, max_new_tokens, sampling or Sampling(), stop_ids)

    def text_stream(self, stop: Sequence[str] = ()) -> TextStream:
        """A fresh stream from ids to text for one answer."""
        strips = self.answers and self.encoder.adds_space
        return TextStream(self.vocabulary, stop, strip_first_space=strips)

    @property
    def max_positions(self) -> int:
        """The context: tokens of prompt and answer together."""
        return self.decoder.max_positions

    @cached_property
    def dialogue(self) -> Dialogue:
        """What `answer` keeps from one turn to the next."""
        return Dialogue(self.decoder)

    def answer(
        self,
        prompt: Sequence[int],
        max_new_tokens: int,
        sampling: Sampling,
        stop: Sequence[str] = (),
    ) -> Generator[str, None, None]:
        """One answer as text, piece by piece; one at a time.

        What the prompt has in common with the last one and its answer is not computed again. To
        break off, close the iterator.
        """
        request = self.request(prompt, max_new_tokens, sampling)
        return stream(self.dialogue, request, self.text_stream(stop))


def find_model_folder(path: Path) -> Path:
    """The folder with `config.json` that a path stands for: a run, a stage or the folder itself.

    Raises UserError where there is none; the Hub is never asked.
    """
    for name in ("", "final", *FOLDERS_OF_A_RUN):
        folder = path / name if name else path
        if (folder / "config.json").is_file():
            return folder
    if not path.exists():
        what = "there is no such folder"
    else:
        what = f"no model here (looked for config.json, {', '.join(FOLDERS_OF_A_RUN)})"
    raise UserError("model-missing", str(path), what, "name a run folder or a model folder")


def load_any(path: Path, *, name: str = "") -> ChatModel | GgufChatModel:
    """A run, a model folder, or a `.gguf` file, which llama.cpp runs (extra `llama-cpp`).

    Raises UserError as `load_chat_model` does, and where llama.cpp is needed and not installed.
    """
    if path.suffix.lower() != ".gguf":
        return load_chat_model(path, name=name)
    from teenytinyllama.inference.llama_cpp import GgufChatModel

    return GgufChatModel(path, name=name)


def load_chat_model(
    path: Path, *, dtype: torch.dtype | None = None, device: str | None = None, name: str = ""
) -> ChatModel:
    """Load a run's model, or a model folder, for generation.

    Unset, the device is CUDA where there is one, and weights stay as they are stored, except
    that fp32 becomes bfloat16 on CUDA. Raises UserError for what is missing, damaged or of
    another kind.
    """
    folder = find_model_folder(path)
    tokenizer_dir = _tokenizer_folder(folder)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = _load_weights(folder).to(device)
    if dtype is None and device.startswith("cuda") and model.dtype == torch.float32:
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
    """Where the model's tokenizer is: beside the weights, or in the run that the model is of."""
    places = (folder, folder.parent.parent / "tokenizer")
    for place in places:
        if tokenizer_file(place).is_file():
            return place
    what = f"no {MODEL_NAME} beside the weights nor in {places[1]}"
    raise UserError("tokenizer-missing", str(folder), what, f"copy {MODEL_NAME} there")


def _load_weights(folder: Path) -> LlamaForCausalLM:
    """The model with every weight read from its files; none may be made up."""
    check_model_folder(folder)
    _check_config(folder)
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # its report on weights becomes our one line
    transformers_logging.disable_progress_bar()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            model: Any
            model, info = LlamaForCausalLM.from_pretrained(
                folder,
                dtype="auto",
                local_files_only=True,
                ignore_mismatched_sizes=True,  # said below, with the name
                output_loading_info=True,
            )
            if getattr(model.config, "quantization_config", None) is not None:
                with torch.inference_mode(False), torch.no_grad():
                    model(torch.tensor([[0]]))  # packed weights are unpacked by their first use
    except (OSError, ValueError, RuntimeError, StrictDataclassError, SafetensorError) as error:
        raise _damaged(folder, error) from error
    finally:
        transformers_logging.set_verbosity(before)
    for key, fault in (
        ("missing_keys", "are not in its files"),
        ("mismatched_keys", "have other shapes than config.json asks for"),
    ):
        if found := sorted(str(name) for name in info[key]):
            raise _damaged(folder, ValueError(f"{len(found)} weights {fault}: {found[0]}"))
    return model.eval()


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
