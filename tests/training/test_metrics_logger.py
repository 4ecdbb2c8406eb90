import json
import threading
import time

import pytest
from support.tiny_training import settings

from teenytinyllama.errors import MissingExtraError
from teenytinyllama.training import metrics_logger
from teenytinyllama.training.metrics_logger import MetricsLogger


@pytest.fixture
def tracker(monkeypatch):
    """Install a tracker called wandb that does what it is told."""

    def install(write, close=lambda: None):
        monkeypatch.setattr(metrics_logger, "find_spec", lambda name: object())
        monkeypatch.setitem(metrics_logger.OPENERS, "wandb", lambda out_dir, run: (write, close))

    return install


def tracked(folder):
    return MetricsLogger(folder, settings(trackers=("wandb",)), is_main=True)


def log_steps(logger, num_steps):
    for step in range(num_steps):
        logger.log_metrics({"step": step})
    logger.close()


def test_lines_arrive_in_order_and_closing_waits_for_them(tracker, tmp_path):
    seen = []
    tracker(lambda line: (time.sleep(0.01), seen.append(line["step"])))
    log_steps(tracked(tmp_path), 5)
    assert seen == [0, 1, 2, 3, 4]


def test_a_failing_tracker_is_reported_once(tracker, tmp_path, capsys):
    def write(line):
        raise ConnectionError("network is down")

    tracker(write)
    log_steps(tracked(tmp_path), 3)
    said = capsys.readouterr().err
    assert said == "tracker wandb failed (network is down); continuing without it\n"
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_tracker_that_cannot_be_opened_is_reported(tracker, monkeypatch, tmp_path, capsys):
    def no_account(out_dir, run):
        raise ValueError("no account")

    tracker(None)
    monkeypatch.setitem(metrics_logger.OPENERS, "wandb", no_account)
    tracked(tmp_path).close()
    assert "tracker wandb failed (no account)" in capsys.readouterr().err


def test_a_hanging_tracker_delays_nothing(tracker, monkeypatch, tmp_path, capsys):
    network = threading.Event()
    tracker(lambda line: network.wait())
    monkeypatch.setattr(metrics_logger, "SECONDS_TO_CLOSE", 0.1)
    monkeypatch.setattr(metrics_logger, "MAX_WAITING_LINES", 3)
    started = time.monotonic()
    log_steps(tracked(tmp_path), 10)
    assert time.monotonic() - started < 5
    network.set()
    said = capsys.readouterr().err
    assert said.count("its queue is full") == 1
    assert "tracker wandb: does not finish, abandoned" in said


def test_a_missing_library_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setattr(metrics_logger, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"teenytinyllama\[track\]"):
        tracked(tmp_path)


def test_logs_are_cut_back_to_their_length_at_a_checkpoint(tmp_path):
    logger = MetricsLogger(tmp_path, settings(), is_main=True)
    lengths = logger.log_metrics({"step": 1}), logger.log_samples([{"text": "ã"}])
    logger.log_metrics({"step": 2})
    logger.log_samples([{"text": "b"}])
    logger.truncate(*lengths)
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1}
    assert json.loads((tmp_path / "samples.jsonl").read_text(encoding="utf-8")) == {"text": "ã"}


def test_only_the_main_process_writes(tmp_path, capsys):
    logger = MetricsLogger(tmp_path, settings(trackers=("wandb",)), is_main=False)
    assert logger.log_metrics({"step": 1}) == logger.log_samples([{"text": "a"}]) == 0
    logger.log_skipped({"step": 1})
    logger.close()
    assert not list(tmp_path.iterdir())
    assert not capsys.readouterr().err
