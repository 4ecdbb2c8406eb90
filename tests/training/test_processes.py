import os
import subprocess
import sys
from pathlib import Path

from tiny import loss_log

from teenytinyllama.formats.manifest import sha256_file
from teenytinyllama.training import checkpoints

SCRIPT = Path(__file__).with_name("two_processes.py")


def launch(folder, num_processes, stop_after):
    command = [sys.executable, str(SCRIPT), str(folder), str(stop_after)]
    if num_processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone"]
        command[1:1] = [*launcher, f"--nproc-per-node={num_processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]


def test_one_process_and_two_give_the_same_bits_and_trade_checkpoints(tmp_path):
    alone, mixed = tmp_path / "alone", tmp_path / "mixed"
    launch(alone, 1, 10)
    for num_processes, stop_after in ((1, 3), (2, 6), (1, 10)):
        launch(mixed, num_processes, stop_after)
    last = checkpoints.folder_name(10) + "/model.safetensors"
    assert sha256_file(alone / last) == sha256_file(mixed / last)
    assert [row[1] for row in loss_log(mixed)][-1] == [row[1] for row in loss_log(alone)][-1]
