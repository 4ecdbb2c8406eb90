"""Conversations to search in: four about animals, thirty that differ by a number."""

from __future__ import annotations

from teenytinyllama.artifacts.conversations import Conversation


def turn(question: str, answer: str) -> Conversation:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


CONVERSATIONS = [
    ("a", turn("Onde mora a raposa Lila?", "A raposa Lila mora na floresta perto do rio azul.")),
    ("a", turn("O que come o urso?", "O urso Teo come mel com pão todas as manhãs.")),
    ("b", turn("Quem é a coruja?", "A coruja Sofia lê livros à noite, no alto da torre 🦉.")),
    ("b", turn("E a floresta?", "As florestas ficam longe da cidade.")),
    *(
        ("c", turn(f"Pergunta {i}?", f"A resposta de número {i} é sempre outra."))
        for i in range(30)
    ),
]
