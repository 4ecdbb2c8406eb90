"""Several models of one recipe with other seeds, whose mean probabilities teach the final one.

    pretrain/members/0/, 1/, ...    each a training of its own that resumes, with its `final/`
    pretrain/final/                 the student: a plain model, taught by text and members

Finished models of the same tokenizer may teach it as well.

Members differ in initial weights, order of rows and dropout, and in the layout of documents with
`shuffle_documents`. In a chain each is taught by the one before it. A finished member's checkpoints
are deleted.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from teenytinyllama.artifacts.model_folder import check_model_folder
from teenytinyllama.errors import UserError
from teenytinyllama.modeling.loading import load_whole, loading
from teenytinyllama.regular_files import user_path
from teenytinyllama.settings.pretraining import EnsembleSettings, PretrainSettings
from teenytinyllama.training.distillation import Ensemble

logger = logging.getLogger(__name__)


def member_settings(settings: PretrainSettings, number: int) -> PretrainSettings:
    """The recipe of a member: another seed, and no ensemble of its own."""
    seed = settings.seed + 1 + number
    alone = EnsembleSettings(teacher_weight=settings.ensemble.teacher_weight)
    return settings.model_copy(update={"seed": seed, "ensemble": alone})


TrainMember = Callable[[PretrainSettings, Path, Ensemble | None], object]
"""Trains by these settings in this folder, taught by a teacher where there is one."""


def train_members(settings: PretrainSettings, out_dir: Path, train: TrainMember) -> list[nn.Module]:
    """Train the members that are not finished, one after another, and load all of them.

    Raises UserError for several processes, which would not agree on what is finished.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError(
            "ensemble-processes",
            f"pretrain.ensemble.members = {settings.ensemble.members}",
            f"an ensemble trains in one process, {os.environ['WORLD_SIZE']} were started",
            "start it without torchrun, or --set pretrain.ensemble.members=0",
        )
    folders = [out_dir / "members" / str(n) for n in range(settings.ensemble.members)]
    for number, folder in enumerate(folders):
        if not (folder / "final").is_dir():
            logger.info(f"ensemble: member {number + 1} of {len(folders)}")
            is_taught = settings.ensemble.chained and number
            teacher = Ensemble(_load(folders[number - 1 : number])) if is_taught else None
            train(member_settings(settings, number), folder, teacher)
        for checkpoint in folder.glob("step-*"):
            shutil.rmtree(checkpoint)
    return _load(folders)


def _load(folders: Sequence[Path]) -> list[nn.Module]:
    fix = "--redo, or restore it from a copy"
    return [load_whole(AutoModelForCausalLM, f / "final", fix=fix) for f in folders]


def load_teachers(
    settings: PretrainSettings, tokenizer_dir: Path, vocab_size: int
) -> list[nn.Module]:
    """The finished models that teach, with `vocab_size` rows each as the student.

    Raises UserError for one that is missing, cannot read the rows, or has other tokens.
    """
    return [
        _load_teacher(place, settings.sequence_length, tokenizer_dir, vocab_size)
        for place in settings.ensemble.teachers
    ]


def _load_teacher(
    place: str, sequence_length: int, tokenizer_dir: Path, vocab_size: int
) -> nn.Module:
    where, source = f'pretrain.ensemble.teachers "{place}"', str(user_path(place))
    fix = (
        "name a causal model that this run's tokenizer was made for, such as runs/a/pretrain/final"
    )
    place = source if Path(source).is_dir() else place
    if Path(place).is_dir():
        check_model_folder(Path(place))
    model: nn.Module = load_whole(AutoModelForCausalLM, place, fix=fix, trust_remote_code=False)
    config: Any = model.config
    with loading(place, fix):
        tokens = AutoTokenizer.from_pretrained(place, trust_remote_code=False).get_vocab()
    what = ""
    if tokens != AutoTokenizer.from_pretrained(tokenizer_dir).get_vocab():
        what = "its tokenizer is another one: its probabilities are those of other tokens"
    elif config.vocab_size != vocab_size:
        what = f"it has {config.vocab_size:,} rows for tokens, the student {vocab_size:,}"
    if what:
        raise UserError("teacher-other-tokenizer", where, what, fix)
    if config.max_position_embeddings < sequence_length:
        raise UserError(
            "sequence-too-long",
            f"pretrain.sequence_length = {sequence_length}",
            f"{place} reads {config.max_position_embeddings} tokens",
            f"--set pretrain.sequence_length={config.max_position_embeddings}",
        )
    return model
