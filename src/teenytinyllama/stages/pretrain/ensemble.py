"""Several models of one recipe with other seeds, whose mean probabilities teach the final one.

    pretrain/members/0/, 1/, ...    each a training of its own that resumes, with its `final/`
    pretrain/final/                 the student: a plain model, taught by text and members

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

from transformers import AutoModelForCausalLM

from teenytinyllama.errors import UserError
from teenytinyllama.modeling.loading import load_whole
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


def train_members(settings: PretrainSettings, out_dir: Path, train: TrainMember) -> Ensemble:
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
            teacher = _load(folders[number - 1 : number]) if is_taught else None
            train(member_settings(settings, number), folder, teacher)
        for checkpoint in folder.glob("step-*"):
            shutil.rmtree(checkpoint)
    return _load(folders)


def _load(folders: Sequence[Path]) -> Ensemble:
    fix = "--redo, or restore it from a copy"
    return Ensemble([load_whole(AutoModelForCausalLM, f / "final", fix=fix) for f in folders])
