"""F5: cut the power after every file operation of saves, prunes and log lines.

    python bench/faults/power_loss.py
    python bench/faults/power_loss.py --every 10

After each operation, every disk state is built that a power cut could leave: unsynced files are
complete, missing, empty, cut in half or full of zeros, and the entries of an unsynced folder are
the old ones, the new ones, or the old ones with one file changed (the idea of ALICE, Pillai et al.
2014, and CrashMonkey, Mohan et al. 2018). From each state the run must resume at a checkpoint at
least as new as the last one reported as saved, and find the log lines that it counts on.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from teenytinyllama.training import checkpoints
from teenytinyllama.training.metrics_logger import append_line, sync_log

OPERATIONS = ("fsync", "rename", "replace", "unlink", "rmdir", "mkdir")
Names = dict[str, int]
"""A folder: what each name in it leads to."""


class Disk:
    """A folder as programs see it, and the states in which a power cut could leave it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.held: dict[int, int] = {}  # inode -> open handle: no number is used twice
        self.synced_names: dict[int, Names] = {}
        self.synced_bytes: dict[int, bytes] = {}
        self.names: dict[int, Names] = {}
        self.bytes: dict[int, bytes] = {}
        self.look()
        self.synced_names = {inode: dict(names) for inode, names in self.names.items()}

    def look(self) -> None:
        """Read what programs see now."""
        self.names, self.bytes = {}, {}
        self._read_folder(self.root)

    def _read_folder(self, folder: Path) -> int:
        inode = self._hold(folder)
        self.names[inode] = {}
        for path in sorted(folder.iterdir()):
            if path.is_dir():
                self.names[inode][path.name] = self._read_folder(path)
            else:
                number = self._hold(path)
                self.names[inode][path.name] = number
                self.bytes[number] = _read(path)
        return inode

    def _hold(self, path: Path) -> int:
        inode = path.stat().st_ino
        if inode not in self.held:
            self.held[inode] = _open(path, os.O_RDONLY)
        return inode

    def sync(self, inode: int, *, is_folder: bool) -> None:
        """Record that this file or folder was synced."""
        if is_folder:
            self.synced_names[inode] = dict(self.names[inode])
        else:
            self.synced_bytes[inode] = self.bytes[inode]

    def close(self) -> None:
        for handle in self.held.values():
            os.close(handle)

    def after_power_cuts(self) -> Iterator[tuple[dict[int, Names], dict[int, bytes]]]:
        """Names and bytes of every state that a power cut now could leave."""
        contents = {**self.synced_bytes, **self.bytes}
        unsynced = [i for i in contents if self.synced_bytes.get(i) != contents[i]]
        variants: list[Callable[[int], bytes]] = [
            lambda i: contents[i],
            lambda i: self.synced_bytes.get(i, b""),
            lambda i: contents[i][: len(contents[i]) // 2],
            lambda i: bytes(len(contents[i])),
        ]
        for names in self._after_cuts_of_names():
            for variant in variants if unsynced else variants[:1]:
                yield names, {**contents, **{i: variant(i) for i in unsynced}}
        for alone in unsynced if len(unsynced) > 1 else ():
            for variant in variants[1:]:
                yield dict(self.names), {**contents, alone: variant(alone)}

    def _after_cuts_of_names(self) -> Iterator[dict[int, Names]]:
        known = {**self.synced_names, **self.names}
        old = {i: self.synced_names.get(i, {}) for i in known}
        new = {i: self.names.get(i, self.synced_names.get(i, {})) for i in known}
        yield new
        yield old
        for folder in known:
            # A rename is atomic: all names of one inode change together.
            was = {inode: name for name, inode in old[folder].items()}
            now = {inode: name for name, inode in new[folder].items()}
            for inode in {*was, *now}:
                if was.get(inode) == now.get(inode):
                    continue
                for base, other in ((new, was), (old, now)):
                    changed = {n: i for n, i in base[folder].items() if i != inode}
                    if inode in other:
                        changed[other[inode]] = inode
                    yield {**base, folder: changed}


_open, _io_open = os.open, io.open


def _read(path: Path) -> bytes:
    with _io_open(path, "rb") as file:
        return file.read()


class Trial:
    """Runs the program, and checks every possible disk state after every operation."""

    def __init__(self, root: Path, every: int) -> None:
        self.disk = Disk(root)
        self.reported = 0
        self.num_operations = self.num_states = self.num_lost = 0
        self._every = every
        self._seen: set[int] = set()
        self._asleep = True

    def after(self, name: str, arguments: tuple) -> None:
        """Record one operation."""
        if self._asleep:
            return
        self._asleep = True
        try:
            self.disk.look()
            if name == "fsync":
                status = os.fstat(arguments[0])
                self.disk.sync(status.st_ino, is_folder=stat.S_ISDIR(status.st_mode))
            self.num_operations += 1
            if self.num_operations % self._every == 0:
                self._check_all()
        finally:
            self._asleep = False

    def play(self, work: Callable[[], None], reports: int) -> None:
        """Do `work`; after it, the checkpoint of step `reports` counts as saved."""
        self._asleep = False
        work()
        self._asleep = True
        self.reported = reports
        self.disk.look()
        self._check_all()

    def _check_all(self) -> None:
        root = self.disk.root.stat().st_ino
        for names, contents in self.disk.after_power_cuts():
            tree = _tree(root, names, contents, set())
            key = hash((repr(tree), self.reported))
            if key in self._seen:
                continue
            self._seen.add(key)
            self.num_states += 1
            with tempfile.TemporaryDirectory() as name:
                _write_tree(Path(name), tree)
                self.num_lost += not _recovers(Path(name) / "pretrain", self.reported)


def _tree(inode: int, names: dict[int, Names], contents: dict[int, bytes], above: set) -> dict:
    tree: dict = {}
    for name, number in names.get(inode, {}).items():
        if number in contents:
            tree[name] = contents[number]
        elif number not in above:
            tree[name] = _tree(number, names, contents, {*above, number})
    return tree


def _write_tree(folder: Path, tree: dict) -> None:
    for name, value in tree.items():
        if isinstance(value, dict):
            (folder / name).mkdir()
            _write_tree(folder / name, value)
        else:
            (folder / name).write_bytes(value)


def _recovers(folder: Path, reported: int) -> bool:
    """Whether a new start loads a checkpoint of step `reported` or later, with its log."""
    if not folder.is_dir():
        return reported == 0
    checkpoints.clean_up(folder)
    try:
        found = checkpoints.load_newest(folder)
    except checkpoints.UserError:
        return False
    if found is None:
        return reported == 0
    step = int(found.state["progress"]["step"])
    log = folder / "metrics.jsonl"
    counted_on = found.state["progress"]["log_bytes"]
    lines = (log.read_bytes() if log.is_file() else b"")[:counted_on].split(b"\n")[:-1]
    logged = [json.loads(line)["step"] if line.startswith(b"{") else None for line in lines]
    whole = bool((found.model["w"] == step).all()) and bool((found.optimizer["m/w"] == -step).all())
    return step >= reported and whole and logged == list(range(1, step + 1))


def save(folder: Path, step: int, log_bytes: int) -> None:
    """Save as the training loop does."""
    sync_log(folder / "metrics.jsonl")
    checkpoints.save_checkpoint(
        folder,
        step,
        model={"w": torch.full((4, 4), float(step))},
        optimizer={"m/w": torch.full((4, 4), -float(step))},
        state={"progress": {"step": step, "log_bytes": log_bytes}},
        write_model_files=lambda path: (path / "config.json").write_text("{}"),
        keep=lambda step: False,
    )
    checkpoints.finish_removals()


def run(num_steps: int = 4, every: int = 1) -> Trial:
    """Log and save `num_steps` steps, the last one twice; check after each `every`-th operation."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    originals = {name: getattr(os, name) for name in OPERATIONS}
    # In a thread of its own a removal would go on unseen while the states after another operation
    # are checked, and the number of operations would depend on the load of the machine.
    in_background = checkpoints._remove_in_background
    checkpoints._remove_in_background = checkpoints._remove
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "pretrain"
        trial = Trial(Path(name), every)

        def wrap(name: str) -> None:
            def wrapped(*args, **kwargs):
                result = originals[name](*args, **kwargs)
                trial.after(name, args)
                return result

            setattr(os, name, wrapped)

        for operation in OPERATIONS:
            wrap(operation)
        try:
            trial.play(lambda: checkpoints._make_folder(folder), 0)
            length = 0
            for step in range(1, num_steps + 1):
                length = append_line(folder / "metrics.jsonl", {"step": step})
                trial.play(lambda n=step, at=length: save(folder, n, at), step)
            trial.play(lambda: save(folder, num_steps, length), num_steps)
        finally:
            for operation, original in originals.items():
                setattr(os, operation, original)
            checkpoints._remove_in_background = in_background
            trial.disk.close()
            shutil.rmtree(folder, ignore_errors=True)
    return trial


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1)
    args = parser.parse_args()
    sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115 (each damage is reported)
    torch.set_num_threads(1)
    trial = run(every=args.every)
    lost = trial.num_lost
    line = {"figure": "F5 disks after a power cut that lose a reported checkpoint", "value": lost}
    spread = {"disks": trial.num_states, "operations": trial.num_operations}
    line |= {"spread": spread, "unit": "disks", "peer": "", "goal": 0, "holds": lost == 0}
    print(json.dumps(line))


if __name__ == "__main__":
    main()
