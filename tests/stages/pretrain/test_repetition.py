import numpy as np
import pytest
from pydantic import ValidationError

from teenytinyllama.settings.pretraining import PretrainSettings, RepetitionSettings
from teenytinyllama.stages.pretrain.repetition import repeat_passages

WIDTH = 257
ROWS = np.arange(2000)


def text(rows=ROWS):
    """Sequences in which no token comes twice."""
    return rows[:, None] * 1000 + np.arange(WIDTH)[None]


def periods(block):
    """Length of the passage each sequence repeats; 0 where it does not repeat."""
    return np.array([len(set(ids)) if len(set(ids)) < WIDTH else 0 for ids in block.tolist()])


def repeated(step, share=1.0, seed=0, rows=ROWS):
    settings = RepetitionSettings(share=share, until_step=100)
    return repeat_passages(text(rows), rows, settings, step=step, seed=seed)


def test_a_sequence_is_its_own_beginning_again_and_again():
    for ids, period in zip(repeated(0), periods(repeated(0)), strict=True):
        assert WIDTH // 32 <= period < WIDTH // 4
        assert (ids[period:] == ids[:-period]).all()
        assert (ids[:period] == ids[0] + np.arange(period)).all()


@pytest.mark.parametrize(
    ("step", "share", "expected"), [(0, 0.4, 0.4), (50, 1.0, 0.5), (75, 0.4, 0.1)]
)
def test_the_share_falls_linearly(step, share, expected):
    found = (periods(repeated(step, share)) > 0).mean()
    assert found == pytest.approx(expected, abs=0.04)


@pytest.mark.parametrize("step", [100, 101, 1_000_000])
def test_afterwards_the_text_is_left_alone(step):
    assert (repeated(step) == text()).all()


def test_no_repetition_is_the_default():
    block = text()
    assert repeat_passages(block, ROWS, RepetitionSettings(), step=0, seed=0) is block


def test_neither_the_cut_into_micro_batches_nor_the_caller_matters():
    whole = repeated(30)
    parts = [repeated(30, rows=cut) for cut in np.array_split(ROWS, 7)]
    assert (np.concatenate(parts) == whole).all()
    assert (repeated(31) != whole).any()
    assert (repeated(30, seed=1) != whole).any()


def test_what_was_read_stays_as_it_was():
    block = text()
    settings = RepetitionSettings(share=1.0)
    repeat_passages(block, ROWS, settings, step=0, seed=0)
    assert (block == text()).all()


def test_isolated_documents_could_not_look_back():
    with pytest.raises(ValidationError, match=r"repetition\.share = 0\.5 needs attention"):
        PretrainSettings(repetition=RepetitionSettings(share=0.5), isolate_documents=True)
