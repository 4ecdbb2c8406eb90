"""One valid row of each shipped task, and files made of such rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ARC = {
    "id": "x",
    "instruction": "Quanto é dois mais dois?",
    "option_a": "três",
    "option_b": "quatro",
    "option_c": "cinco",
    "option_d": "seis",
    "answer": "B",
}


TRUTHFUL = {
    "question": "O céu é azul?",
    "mc1_targets_choices": ["Sim.", "Não.", "Talvez."],
    "mc1_targets_labels": [1, 0, 0],
    "mc2_targets_choices": ["Sim.", "De dia, sim.", "Não.", "Nunca."],
    "mc2_targets_labels": [1, 1, 0, 0],
}


ROWS = {
    "arc_pt": ARC,
    "mmlu_pt": ARC,
    "mmlu_pt_text": ARC,
    "hellaswag_pt": {
        "activity_label": "Cozinhar",
        "ctx_a": "Ela abre o forno.",
        "ctx_b": "a massa",
        "endings": ["cresce.", "canta.", "lê."],
        "label": "0",
    },
    "truthfulqa_pt_mc1": TRUTHFUL,
    "truthfulqa_pt_mc2": TRUTHFUL,
    "lambada_pt": {"text": "O gato subiu no telhado"},
    "calame_pt": {"sentence": "O gato subiu no", "last_word": "telhado"},
    "multiblimp_pt": {"sen": "Os gatos dormem.", "wrong_sen": "Os gatos dorme."},
    "belebele": {
        "flores_passage": "O gato dorme na cozinha.",
        "question": "Onde dorme o gato?",
        "mc_answer1": "na sala",
        "mc_answer2": "na cozinha",
        "mc_answer3": "no telhado",
        "mc_answer4": "na rua",
        "correct_answer_num": "2",
    },
    "sib200": {"index_id": 7, "category": "travel", "text": "O trem para Lisboa parte cedo."},
    "global_piqa": {
        "prompt": "Para esfriar o café,",
        "solution0": "põe-se gelo.",
        "solution1": "põe-se areia.",
        "label": 0,
    },
    "assin_entailment": {
        "premise": "O gato dorme na cozinha.",
        "hypothesis": "O gato está na cozinha.",
        "entailment_judgment": 1,
    },
    "enem": {
        "context": "Um texto.",
        "question": "O texto fala de",
        "options": ["nada", "tudo", "algo", "mim", "ti"],
        "label": "c",
        "has_associated_images": False,
    },
    "oab": {
        "question": "É permitido?",
        "choices": {"text": ["sim", "não"], "label": ["A", "B"]},
        "answerKey": "B",
        "nullified": False,
    },
    "bluex": {
        "question": "É permitido?",
        "choices": {"text": ["sim", "não"], "label": ["A", "B"]},
        "answerKey": "B",
    },
    "storybook": {"question": "Quem mora lá?", "choices": ["o gato", "o cão"], "answer": 1},
    "cloze": {"question": "Quem mora lá?", "choices": ["o gato", "o cão"], "answer": 1},
}


def write_split(folder: Path, split: str, rows: list[Any]) -> None:
    """Write `<split>.jsonl`; a row that is text is written as it is."""
    folder.mkdir(exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def vary(row: dict[str, Any], count: int, start: int = 0) -> list[dict[str, Any]]:
    """`count` different rows: few-shot examples must differ from the question."""
    names = ("instruction", "question", "sentence", "text", "ctx_a", "sen", "prompt", "premise")
    text = next(key for key in names if key in row)
    return [{**row, text: f"{i} {row[text]}"} for i in range(start, start + count)]
