import threading
import time

import pytest

from teenytinyllama.errors import MissingExtraError
from teenytinyllama.training import metrics_logger


@pytest.fixture
def mirror(monkeypatch):
    """A mirror called wandb that does what it is told."""

    def install(write, close=lambda: None):
        monkeypatch.setattr(metrics_logger, "find_spec", lambda name: object())
        monkeypatch.setitem(metrics_logger.OPENERS, "wandb", lambda out_dir, run: (write, close))

    return install


def test_lines_arrive_in_order_and_closing_waits_for_them(mirror, tmp_path):
    seen = []
    mirror(lambda line: (time.sleep(0.01), seen.append(line["step"])))
    mirrors = metrics_logger.Trackers(("wandb",), tmp_path, "tiny")
    for step in range(5):
        mirrors.log({"step": step})
    mirrors.close()
    assert seen == [0, 1, 2, 3, 4]


def test_a_mirror_that_fails_is_named_once(mirror, tmp_path, capsys):
    def write(line):
        raise ConnectionError("network is down")

    mirror(write)
    mirrors = metrics_logger.Trackers(("wandb",), tmp_path, "tiny")
    for step in range(3):
        mirrors.log({"step": step})
    mirrors.close()
    said = capsys.readouterr().err
    assert said == "tracker wandb: failed (network is down); going on without it\n"


def test_a_mirror_that_cannot_be_opened_is_named(mirror, monkeypatch, tmp_path, capsys):
    def no_account(out_dir, run):
        raise ValueError("no account")

    mirror(None)
    monkeypatch.setitem(metrics_logger.OPENERS, "wandb", no_account)
    metrics_logger.Trackers(("wandb",), tmp_path, "tiny").close()
    assert "tracker wandb: failed (no account)" in capsys.readouterr().err


def test_a_mirror_that_hangs_holds_up_nobody(mirror, monkeypatch, tmp_path, capsys):
    network = threading.Event()
    mirror(lambda line: network.wait())
    monkeypatch.setattr(metrics_logger, "SECONDS_TO_CLOSE", 0.1)
    monkeypatch.setattr(metrics_logger, "MAX_WAITING_LINES", 3)
    mirrors = metrics_logger.Trackers(("wandb",), tmp_path, "tiny")
    started = time.monotonic()
    for step in range(10):
        mirrors.log({"step": step})
    mirrors.close()
    assert time.monotonic() - started < 5
    network.set()
    said = capsys.readouterr().err
    assert said.count("takes no more lines") == 1
    assert "tracker wandb: does not finish; left behind" in said


def test_a_library_that_is_missing_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setattr(metrics_logger, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"teenytinyllama\[track\]"):
        metrics_logger.Trackers(("wandb",), tmp_path, "tiny")
