"""How much text is a recipe worth? Four passes are the base line, levers are added one at a time.

    python bench/little_text.py --text 'corpus/*.jsonl.gz' --sizes-mb 1,2,4 --levers none \
        --seeds 0,1,2 --run-dir runs/little            # the base line's curve over text sizes
    python bench/little_text.py --text ... --sizes-mb 1 --levers all --seeds 0,1,2 --run-dir ...

The held-out text is the same for all: whole documents, by the hash of their text. A text of 1 MB
is the beginning of that of 2 MB; all share the vocabulary of the smallest. Base line: four passes,
the usual weight decay; its rates, decay and size are the best of `BASE_TRIALS` at the smallest
size. A lever stands on `many-passes`, 16 of them with the decay that lets a weight keep what it
learnt for one epoch (`epochs_kept`). `best` has the levers that helped, and `student` learns from
an ensemble whose members are trainings with lines of their own.

Every training appends a line to bench/results/little_text.jsonl, and one that is there already is
not run again: slices add up, and a killed training resumes in its folder. A recipe's worth is read
where its bits per byte lie on the base line's curve (linear in the logarithm of the text), and
never beyond it. `--tiny` takes smaller models, to try the levers in minutes, for 0.125 to 1 MB.
`--from-results` trains nothing and writes the figures of what is there. Minutes
to hours a training.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import glob
import gzip
import hashlib
import json
import math
import shutil
import statistics
import time
from collections.abc import Iterator
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any

from teenytinyllama.artifacts.documents import Document, DocumentWriter
from teenytinyllama.artifacts.manifest import fingerprint_of
from teenytinyllama.artifacts.tokens import open_tokens
from teenytinyllama.energy import EnergyMeter
from teenytinyllama.settings.base import EnergySettings
from teenytinyllama.settings.data_preparation import PackSettings, TokenizerSettings
from teenytinyllama.settings.pretraining import PretrainSettings
from teenytinyllama.stages.interface import StageContext
from teenytinyllama.stages.pack import stage as pack
from teenytinyllama.stages.pretrain import stage as pretrain
from teenytinyllama.stages.tokenizer import stage as tokenizer

RESULTS = Path(__file__).parent / "results" / "little_text.jsonl"
HELDOUT_BYTES = 360_000
HELDOUT_SHARE = 16  # of the documents, one in so many may be held out
PIECE_CHARACTERS = 8_000  # a novel must not be the whole text
VOCAB_SIZE = 2048
LENGTH = 256

Changes = dict[str, Any]
Worth = tuple[float, bool, str]  # times the text, whether within the curve, recipe


def _model(width: int, hidden: int, layers: int) -> Changes:
    return {
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 32,
        "max_position_embeddings": LENGTH,
        "tie_word_embeddings": True,
    }


MODEL = _model(96, 256, 3)  # 0.53 M parameters
LARGER = _model(128, 384, 4)  # 1.1 M
LARGEST = _model(192, 512, 5)  # 2.6 M
TINY = {"usual": _model(32, 96, 1), "larger": _model(64, 192, 2)}  # 0.08 and 0.23 M
TINY_HELDOUT_BYTES = 100_000
BASE: Changes = {
    "passes": 4,
    "tokens_per_step": 1024,
    "model": MODEL,
    "optimizer": {"kind": "muon", "peak_learning_rate": 1e-2, "muon_learning_rate": 6e-3},
    "schedule": {"warmup_steps": 50, "decay_fraction": 0.6},
}
BASE_TRIALS: dict[str, Changes] = {
    "base": {},
    "base, double rate": {"optimizer": {"peak_learning_rate": 2e-2, "muon_learning_rate": 1.2e-2}},
    "base, 2048 tokens a step": {"tokens_per_step": 2048},
    "base, 2048 tokens a step, double rate": {
        "tokens_per_step": 2048,
        "optimizer": {"peak_learning_rate": 2e-2, "muon_learning_rate": 1.2e-2},
    },
    "base, 2048 tokens a step, larger": {"tokens_per_step": 2048, "model": LARGER},
    "base, larger": {"model": LARGER},
    "base, decay 1": {"optimizer": {"weight_decay": 1.0}},
}


MANY: Changes = {
    "passes": 16,
    "epochs_kept": 1.0,
    "checkpoints": {"keep_weights": "best"},
    "averaging": {"ema_decay": 0.998},
}


def _decay(weight_decay: float) -> Changes:
    return {"epochs_kept": None, "optimizer": {"weight_decay": weight_decay}}


LEVERS: dict[str, Changes] = {
    "many-passes": {},
    "decay-0.1": _decay(0.1),
    "decay-0.2": _decay(0.2),
    "decay-0.4": _decay(0.4),
    "decay-1": _decay(1.0),
    "decay-2": _decay(2.0),
    "passes-8": {"passes": 8},
    "passes-32": {"passes": 32},
    "shuffle-documents": {"shuffle_documents": True},
    "decay-follows-rate": {"optimizer": {"weight_decay_schedule": "learning-rate"}},
    "embedding-decay": {"optimizer": {"embedding_weight_decay": 0.1}},
    "dropout": {"dropout": {"residual": 0.1, "mlp": 0.1, "embedding": 0.1}},
    "stochastic-depth": {"dropout": {"layers": 0.1}},
    "mask-inputs": {"mask_inputs": 0.1},
    "larger": {"model": LARGER},
    "largest": {"model": LARGEST, "shuffle_documents": True},
}
BEST: Changes = {"model": LARGER, "shuffle_documents": True, "epochs_kept": 1.5}
MEMBER: Changes = BEST
RECIPES: dict[str, Changes] = {
    **LEVERS,
    "best": BEST,
    "member": MEMBER,
    "student": {**MEMBER, "ensemble": {"members": 4}},
}
JOINT = ("best", "student")
ENSEMBLE_METRICS = ("heldout_bpb_of_members", "heldout_bpb_of_ensemble")


def merged(*changes: Changes) -> Changes:
    """Later changes over earlier ones, sections joined; None takes a key away."""
    whole: Changes = {}
    for change in changes:
        for key, value in change.items():
            both = isinstance(value, dict) and isinstance(whole.get(key), dict)
            whole[key] = {**whole[key], **value} if both else value
    return {key: value for key, value in whole.items() if value is not None}


def recipe_of(name: str) -> Changes:
    """The settings of a recipe: a copy, since a training sets its weight decay in it."""
    changes = (BASE_TRIALS[name],) if name in BASE_TRIALS else (MANY, RECIPES[name])
    return copy.deepcopy(merged(BASE, *changes))


def read_pieces(pattern: str) -> tuple[list[str], list[str]]:
    """Training and held-out pieces of text in the order of their hashes, each text once."""
    documents = {hashlib.sha256(t.encode()).digest(): t for t in _texts(pattern) if t.strip()}
    train: list[tuple[bytes, str]] = []
    heldout: list[tuple[bytes, str]] = []
    for digest, text in documents.items():
        side = heldout if digest[0] % HELDOUT_SHARE == 0 else train
        for start in range(0, len(text), PIECE_CHARACTERS):
            piece = text[start : start + PIECE_CHARACTERS]
            side.append((hashlib.sha256(digest + start.to_bytes(8)).digest(), piece))
    return _sorted(train), _sorted(heldout)


def _sorted(pieces: list[tuple[bytes, str]]) -> list[str]:
    seen: set[str] = set()
    return [t for _, t in sorted(pieces) if not (t in seen or seen.add(t))]  # type: ignore[func-returns-value]


def _texts(pattern: str) -> Iterator[str]:
    paths = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207
    if not paths:
        raise SystemExit(f"--text {pattern}: no such file")
    for name in paths:
        with gzip.open(name, "rt") if name.endswith(".gz") else open(name) as file:  # noqa: PTH123
            if ".jsonl" in name:
                yield from (json.loads(line)["text"] for line in file)
            else:
                yield file.read()


def first_bytes(pieces: list[str], num_bytes: float) -> list[str]:
    """The first pieces, up to so many bytes. Exits where there are fewer."""
    found: list[str] = []
    size = 0
    for piece in pieces:
        if size >= num_bytes:
            return found
        found.append(piece)
        size += len(piece.encode())
    if size < 0.99 * num_bytes:
        raise SystemExit(
            f"--text has {size / 1e6:.2f} MB here, {num_bytes / 1e6:g} MB are asked for"
        )
    return found


class NotTrainedError(Exception):
    """A training is not in the results file, and --from-results trains nothing."""


class Bench:
    """Trainings on one text; those in the results file are not run again."""

    def __init__(self, args: argparse.Namespace, smallest: float) -> None:
        self.run_dir: Path = args.run_dir
        self.trains_nothing: bool = args.from_results
        self.train, heldout = read_pieces(args.text)
        self.heldout = first_bytes(heldout, TINY_HELDOUT_BYTES if args.tiny else HELDOUT_BYTES)
        self.context = StageContext("bench", "pt", EnergySettings(), EnergyMeter(EnergySettings()))
        smallest_text = first_bytes(self.train, smallest * 1e6)
        self.text = fingerprint_of([self.heldout, smallest_text])[:12]
        corpus = self._corpus(smallest)
        self.tokenizer_dir = self.run_dir / f"tokenizer-{self.text}"
        if not (self.tokenizer_dir / "tokenizer.json").is_file():
            shutil.rmtree(self.tokenizer_dir, ignore_errors=True)
            self.tokenizer_dir.mkdir(parents=True)
            tokenizer.run(
                settings=TokenizerSettings(vocab_size=VOCAB_SIZE),
                context=self.context,
                out_dir=self.tokenizer_dir,
                corpus_dir=corpus,
            )

    def _corpus(self, size: float) -> Path:
        folder = self.run_dir / f"corpus-{self.text}-{size:g}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for split, pieces in (
            ("train", first_bytes(self.train, size * 1e6)),
            ("heldout", self.heldout),
        ):
            with DocumentWriter(folder, split) as writer:  # type: ignore[arg-type]
                for number, text in enumerate(pieces):
                    writer.write(Document(f"{split}-{number}", text, "text", "unknown"))
        return folder

    def _pack(self, size: float) -> Path:
        folder = self.run_dir / f"pack-{self.text}-{size:g}"
        if not (folder / "index.json").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            pack.run(
                settings=PackSettings(),
                context=self.context,
                out_dir=folder,
                corpus_dir=self._corpus(size),
                tokenizer_dir=self.tokenizer_dir,
            )
        return folder

    def bits_per_byte(self, name: str, size: float, seed: int) -> float:
        """Held-out bits per byte at the end of one training, which resumes where it was killed."""
        key = self._key(name, size, seed)
        for row in read_results():
            if row.get("key") == key:
                return float(row["heldout_bpb"])
        if self.trains_nothing:
            raise NotTrainedError
        if name == "student":
            self._train_members(size, seed, self._folder(key))
        row = self._train(name, size, seed)
        append(row)
        return float(row["heldout_bpb"])

    def _key(self, name: str, size: float, seed: int) -> str:
        return fingerprint_of([self.text, VOCAB_SIZE, LENGTH, size, seed, recipe_of(name)])[:16]

    def _folder(self, key: str) -> Path:
        return self.run_dir / f"train-{key}"

    def _train_members(self, size: float, seed: int, out_dir: Path) -> None:
        """Members have the seeds after the student's; each is a training with its line."""
        for number in range(recipe_of("student")["ensemble"]["members"]):
            self.bits_per_byte("member", size, seed + 1 + number)
            final = self._folder(self._key("member", size, seed + 1 + number)) / "final"
            own = out_dir / "members" / str(number) / "final"
            if final.is_dir() and not own.is_dir():  # else the student's training makes it again
                shutil.copytree(final, own.with_name("copying"))
                own.with_name("copying").rename(own)

    def _train(self, name: str, size: float, seed: int) -> dict[str, Any]:
        recipe, key = recipe_of(name), self._key(name, size, seed)
        out_dir, pack_dir, started = self._folder(key), self._pack(size), time.process_time()
        num_sequences = open_tokens(pack_dir, "train").num_sequences(LENGTH)
        passes, kept = recipe.pop("passes"), recipe.pop("epochs_kept", None)
        if kept:
            steps = kept * num_sequences * LENGTH / recipe["tokens_per_step"]
            rate = recipe["optimizer"]["muon_learning_rate"]
            recipe["optimizer"]["weight_decay"] = float(f"{1 / (rate * steps):.2g}")
        settings = PretrainSettings(
            **recipe,
            sequence_length=LENGTH,
            num_steps=round(passes * num_sequences * LENGTH / recipe["tokens_per_step"]),
            log_every_steps=50,
            seed=seed,
        )
        result = pretrain.run(
            settings=settings,
            context=self.context,
            out_dir=out_dir,
            tokenizer_dir=self.tokenizer_dir,
            pack_dir=pack_dir,
        )
        lines = (out_dir / "metrics.jsonl").read_text().splitlines()
        scores = [json.loads(line)["heldout_bpb"] for line in lines if "heldout_bpb" in line]
        candidates = result.metrics.get("heldout_bpb_of_weights", {})
        for folder in [*out_dir.glob("step-*"), *out_dir.glob("members")]:
            shutil.rmtree(folder)
        return {
            "key": key,
            "recipe": name,
            "text": self.text,
            "text_mb": size,
            "seed": seed,
            "passes": passes,
            "weight_decay": settings.optimizer.weight_decay,
            "parameters": result.counts["parameters"],
            "tokens": result.counts["tokens"],
            "heldout_bpb": min([scores[-1], *candidates.values()]),
            "heldout_bpb_at_epochs": [round(score, 4) for score in scores],
            "heldout_bpb_of_weights": candidates,
            **{k: v for k, v in result.metrics.items() if k in ENSEMBLE_METRICS},
            "cpu_seconds": round(time.process_time() - started),  # of the last start
        }

    def mean(self, name: str, size: float, seeds: list[int]) -> float | None:
        """Over the seeds; with --from-results over those that are there, None without any."""
        found: list[float] = []
        for seed in seeds:
            with contextlib.suppress(NotTrainedError):
                found.append(self.bits_per_byte(name, size, seed))
        return statistics.mean(found) if found else None


def read_results() -> list[dict[str, Any]]:
    if not RESULTS.is_file():
        return []
    return [json.loads(line) for line in RESULTS.read_text().splitlines()]


def append(row: dict[str, Any]) -> None:
    with RESULTS.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


def text_of(bpb: float, curve: list[tuple[float, float]]) -> tuple[float, bool]:
    """Text (MB) with which the base line reaches `bpb`, and whether it lies within the curve.

    >>> text_of(1.9, [(1.0, 2.0), (4.0, 1.8)])
    (2.0, True)
    >>> text_of(1.7, [(1.0, 2.0), (4.0, 1.8)])
    (4.0, False)
    """
    for (small, high), (large, low) in pairwise(curve):
        if low <= bpb <= high:
            share = (high - bpb) / (high - low) if high > low else 0.0
            return math.exp((1 - share) * math.log(small) + share * math.log(large)), True
    return (curve[0][0] if bpb > curve[0][1] else curve[-1][0]), False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", required=True, help="glob of .jsonl, .jsonl.gz and .txt files")
    parser.add_argument("--sizes-mb", default="1,2,4")
    parser.add_argument(
        "--levers", default="all", help=f"all, none, or of {', '.join(LEVERS)}, best"
    )
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--base-trials", default="all", help="all, or none: the base line as it is")
    parser.add_argument(
        "--tiny", action="store_true", help="models of 0.08 M parameters: all within half an hour"
    )
    parser.add_argument(
        "--from-results", action="store_true", help="train nothing; figures of what is there"
    )
    args = parser.parse_args()
    sizes = sorted(float(size) for size in args.sizes_mb.split(","))
    seeds = [int(seed) for seed in args.seeds.split(",")]
    names = {"all": [*LEVERS, *JOINT], "none": []}.get(args.levers, args.levers.split(","))
    if unknown := set(names) - {*LEVERS, *JOINT}:
        raise SystemExit(
            f"--levers {', '.join(sorted(unknown))}: known are {', '.join(LEVERS)}, best"
        )
    if args.tiny:
        MODEL.update(TINY["usual"])
        LARGER.update(TINY["larger"])
        MANY["averaging"] = {"ema_decay": 0.99}  # of the few steps that 0.125 MB make
    bench = Bench(args, sizes[0])
    trials = list(BASE_TRIALS) if args.base_trials == "all" else [next(iter(BASE_TRIALS))]
    by_trial = {name: bench.mean(name, sizes[0], seeds[:1]) for name in trials}
    base = min((name for name in trials if by_trial[name]), key=lambda name: by_trial[name] or inf)
    curve = [(size, bpb) for size in sizes if (bpb := bench.mean(base, size, seeds))]
    worth: dict[str, dict[float, Worth]] = {"single": {}, "student": {}}
    for name in names:
        found = worth["student" if name == "student" else "single"]
        for size in sizes[:3] if name in JOINT else sizes[:1]:
            bpb = bench.mean(name, size, seeds)
            if bpb is None:
                continue
            text, within = text_of(bpb, curve)
            print(f"{name}, {size:g} MB: {bpb:.4f}, worth {text / size:.2f} times the text")
            found[size] = max(found.get(size, (0.0, False, "")), (text / size, within, name))
    for kind, goal in (("single", 3), ("student", 5)):
        label = f"little_text_{'tiny_' if args.tiny else ''}worth_{kind}"
        append(figure(label, goal, worth[kind], base, curve, seeds))


def figure(
    label: str,
    goal: float,
    worth: dict[float, Worth],
    base: str,
    curve: list[tuple[float, float]],
    seeds: list[int],
) -> dict[str, Any]:
    """The best recipe's worth at 1 and 2 MB; the value is the smaller of the two."""
    by_size = {f"{size:g}": round(found[0], 3) for size, found in worth.items() if size <= 2}
    value = min(by_size.values(), default=None)
    return {
        "figure": label,
        "value": value,
        "unit": "times the text",
        "by_text_mb": by_size,
        "recipe": {f"{size:g}": found[2] for size, found in worth.items()},
        "within_curve": bool(worth) and all(found[1] for found in worth.values()),
        "base": base,
        "base_curve": {f"{size:g}": round(bpb, 4) for size, bpb in curve},
        "seeds": seeds,
        "goal": goal,
        "holds": value is not None and value >= goal,
    }


if __name__ == "__main__":
    main()
