"""Untrained models on every shipped task file: their scores should be chance.

Items are made in the layout of each published set; which choice is right, and how long each one
is, are drawn independently of each other, so that nothing but the scoring itself can lift a score.
A pair of task and seed holds where the score's 95 % interval includes chance; ties count as a
share.

    python bench/untrained_scores.py [--items 200] [--seeds 5]

Goal: at least 90 % of pairs.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from teenytinyllama.modeling.initialization import build_model, llama_config
from teenytinyllama.settings.datasets import Task
from teenytinyllama.settings.training import ModelSettings
from teenytinyllama.stages.evaluate.scored_models import ScoredModel
from teenytinyllama.stages.evaluate.task_loading import load_benchmark
from teenytinyllama.stages.evaluate.task_runner import score_tasks
from teenytinyllama.stages.evaluate.task_sandbox import TASKS_DIR, read_definition
from teenytinyllama.synthetic import dataset as synthetic

CONTEXT, VOCAB_SIZE = 256, 500
SHOTS = 2  # solved examples at most: an untrained model learns nothing from them
MIN_SHARE = 0.9
SIZES = ModelSettings(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=CONTEXT,
)
SIB_TOPICS = read_definition(Task(name="sib200", path="."))["doc_to_choice"]
TASKS = sorted(path.stem for path in TASKS_DIR.glob("*.yaml"))


class ItemMaker:
    """Items of every shipped task in the layout of its published set."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(f"untrained/{seed}")
        texts = (one.text for one in synthetic.documents(seed=seed, num_documents=40))
        self._words = sorted({word for text in texts for word in text.split() if word.isalpha()})

    def rows(self, task: str, count: int) -> list[dict[str, Any]]:
        """Rows of one task; no two have the same question."""
        return [self._row(task, number) for number in range(count)]

    def _text(self, least: int, most: int) -> str:
        return " ".join(self._rng.choices(self._words, k=self._rng.randint(least, most)))

    def _choices(self, count: int) -> list[str]:
        found: list[str] = []
        while len(found) < count:
            text = self._text(1, 5)
            if text.casefold() not in {one.casefold() for one in found}:
                found.append(text)
        return found

    def _row(self, task: str, number: int) -> dict[str, Any]:
        rng, question = self._rng, f"{number} {self._text(4, 12)}"
        if task in ("arc_pt", "mmlu_pt", "mmlu_pt_text"):
            options = dict(zip("abcd", self._choices(4), strict=True))
            fields = {f"option_{letter}": text for letter, text in options.items()}
            return {"instruction": question, **fields, "answer": rng.choice("ABCD")}
        if task == "hellaswag_pt":
            return {
                "activity_label": self._text(1, 2),
                "ctx_a": question,
                "ctx_b": self._text(1, 3),
                "endings": self._choices(4),
                "label": str(rng.randrange(4)),
            }
        if task.startswith("truthfulqa"):
            labels = [rng.randrange(2) for _ in range(6)]
            right = rng.randrange(4)
            return {
                "question": question,
                "mc1_targets_choices": self._choices(4),
                "mc1_targets_labels": [int(place == right) for place in range(4)],
                "mc2_targets_choices": self._choices(6),
                "mc2_targets_labels": labels if 0 < sum(labels) < 6 else [1, 0, 1, 0, 1, 0],
            }
        if task == "lambada_pt":
            return {"text": question}
        if task == "calame_pt":
            return {"sentence": question, "last_word": rng.choice(self._words)}
        if task == "multiblimp_pt":
            words = question.split()
            first, second = (" ".join([*words, word]) for word in rng.sample(self._words, 2))
            return {"sen": first, "wrong_sen": second}
        if task == "belebele":
            answers = {f"mc_answer{n}": text for n, text in enumerate(self._choices(4), start=1)}
            right = str(rng.randint(1, 4))
            return {"flores_passage": self._text(9, 30), "question": question} | {
                **answers,
                "correct_answer_num": right,
            }
        if task == "sib200":
            return {"text": question, "category": rng.choice(SIB_TOPICS)}
        if task == "global_piqa":
            first, second = self._choices(2)
            return {"prompt": question, "solution0": first, "solution1": second} | {
                "label": rng.randrange(2)
            }
        if task == "assin_entailment":
            return {"premise": question, "hypothesis": self._text(4, 12)} | {
                "entailment_judgment": rng.randrange(2)
            }
        if task == "enem":
            options, label = self._choices(5), rng.choice("ABCDE")
            return {"context": self._text(3, 9), "question": question, "options": options} | {
                "label": label,
                "has_associated_images": False,
            }
        if task in ("oab", "bluex"):
            choices = {"text": self._choices(4), "label": list("ABCD")}
            return {"question": question, "choices": choices, "answerKey": rng.choice("ABCD")}
        return {"question": question, "choices": self._choices(4), "answer": rng.randrange(4)}


def untrained(seed: int) -> ScoredModel:
    """A model as it is before its first step, with a byte-level tokenizer of the invented world."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.train_from_iterator(
        [one.text for one in synthetic.documents(seed=0, num_documents=40)],
        trainers.BpeTrainer(
            vocab_size=VOCAB_SIZE,
            special_tokens=["<unk>", "<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    config = llama_config(SIZES, VOCAB_SIZE, bos_id=1, eos_id=2, pad_id=0)
    model: LlamaForCausalLM = build_model(config, seed=seed)
    return ScoredModel(f"untrained-{seed}", model.eval(), tokenizer, {}, CONTEXT)


def score(scored: ScoredModel, task: str, rows: list[dict[str, Any]], folder: Path) -> Any:
    """The score of one task over these rows; the first few are its solved examples."""
    folder.mkdir(parents=True, exist_ok=True)
    own = Task(name=task, path=str(folder))
    shots = min(SHOTS, read_definition(own).get("num_fewshot") or 0)
    splits = {"train": rows[:SHOTS], "test": rows[SHOTS:]} if shots else {"test": rows[SHOTS:]}
    for split, part in splits.items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    benchmark = load_benchmark(own, {"num_fewshot": shots})
    [found] = score_tasks(scored, [benchmark], batch_tokens=8192, cache_dir=None)
    return found


def run(num_items: int, seeds: range, folder: Path, tasks: list[str]) -> list[dict[str, Any]]:
    """Every task with every seed: score, interval, chance, ties, and whether it is chance."""
    rows = []
    for seed in seeds:
        scored, maker = untrained(seed), ItemMaker(seed)
        for task in tasks:
            found = score(
                scored, task, maker.rows(task, num_items + SHOTS), folder / f"{task}-{seed}"
            )
            low, high = found["interval95"]
            names = ("task", "accuracy", "interval95", "chance", "num_items", "num_ties")
            rows.append(
                {"seed": seed}
                | {name: found[name] for name in names}
                | {"is_chance": low <= found["chance"] <= high, "length_rule": found["length_rule"]}
            )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = run(options.items, range(options.seeds), Path(folder), TASKS)
    for row in rows:
        print(json.dumps(row))
    share = sum(row["is_chance"] for row in rows) / len(rows)
    print(f"{share:.1%} of {len(rows)} pairs of task and seed at chance (goal {MIN_SHARE:.0%})")
    return int(share < MIN_SHARE)


if __name__ == "__main__":
    sys.exit(main())
