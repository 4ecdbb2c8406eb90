"""One record of every layout of conversations and preferences that other tools document.

All hold the same: a question, a good and a bad answer; those with more name it.
"""

from __future__ import annotations

from typing import Any

Q, A, BAD, SYSTEM = "Onde mora a raposa?", "Na floresta.", "Não sei.", "Seja breve."
CONTEXT = "A raposa Lila mora na floresta."
EARLIER = ("Quem é Lila?", "Uma raposa.")


def said(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def told(role: str, content: str) -> dict[str, Any]:
    return {"from": role, "value": content}


USER, GOOD, WORSE = said("user", Q), said("assistant", A), said("assistant", BAD)
SYSTEM_TURN = said("system", SYSTEM)
HISTORY = [said("user", EARLIER[0]), said("assistant", EARLIER[1])]
ASKED = said("user", f"{Q}\n\n{CONTEXT}")
PART = {"type": "text", "text": Q}

# name: (record, its conversation)
CONVERSATIONS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "openai messages": ({"messages": [USER, GOOD]}, [USER, GOOD]),
    "openai system": ({"messages": [SYSTEM_TURN, USER, GOOD]}, [SYSTEM_TURN, USER, GOOD]),
    "openai developer": (
        {"messages": [said("developer", SYSTEM), USER, GOOD]},
        [SYSTEM_TURN, USER, GOOD],
    ),
    "openai text parts": (
        {"messages": [said("user", [PART]), said("assistant", [{"type": "text", "text": A}])]},
        [USER, GOOD],
    ),
    "openai weight": (
        {"messages": [USER, {**WORSE, "weight": 0}, USER, {**GOOD, "weight": 1}]},
        [USER, {**WORSE, "weight": 0}, USER, GOOD],
    ),
    "openai names in capitals": (
        {"messages": [{"Role": "User", "Content": Q}, {"Role": "Assistant", "Content": A}]},
        [USER, GOOD],
    ),
    "capybara": (
        {"conversation": [{"input": q, "output": a} for q, a in (EARLIER, (Q, A))]},
        [*HISTORY, USER, GOOD],
    ),
    "firefly": ({"conversation": [{"human": Q, "assistant": A}]}, [USER, GOOD]),
    "trl prompt and completion": ({"prompt": Q, "completion": f" {A}"}, [USER, GOOD]),
    "trl conversational": ({"prompt": [USER], "completion": [GOOD]}, [USER, GOOD]),
    "trl unpaired": ({"prompt": Q, "completion": A, "label": True}, [USER, GOOD]),
    "factory alpaca": ({"instruction": Q, "input": "", "output": A}, [USER, GOOD]),
    "factory alpaca whole": (
        {
            "instruction": Q,
            "input": CONTEXT,
            "output": A,
            "system": SYSTEM,
            "history": [list(EARLIER)],
        },
        [SYSTEM_TURN, *HISTORY, ASKED, GOOD],
    ),
    "factory kto": ({"instruction": Q, "output": A, "kto_tag": True}, [USER, GOOD]),
    "factory sharegpt": (
        {"conversations": [told("human", Q), told("gpt", A)], "system": SYSTEM},
        [SYSTEM_TURN, USER, GOOD],
    ),
    "axolotl conversations": ({"conversations": [USER, GOOD]}, [USER, GOOD]),
    "axolotl pygmalion": (
        {"conversations": [{"role": "user", "value": Q}, {"role": "assistant", "value": A}]},
        [USER, GOOD],
    ),
    "axolotl train": (
        {
            "conversations": [
                {**told("human", Q), "train": False},
                {**told("assistant", BAD), "train": False},
                told("human", Q),
                {**told("gpt", A), "train": True},
            ]
        },
        [USER, {**WORSE, "weight": 0}, USER, GOOD],
    ),
    "axolotl jeopardy": ({"question": Q, "category": "bichos", "answer": A}, [USER, GOOD]),
    "axolotl oasst": ({"INSTRUCTION": Q, "RESPONSE": A}, [USER, GOOD]),
    "axolotl gpteacher": ({"instruction": Q, "input": CONTEXT, "response": A}, [ASKED, GOOD]),
    "axolotl reflection": (
        {"instruction": Q, "input": "", "output": BAD, "reflection": "Sei.", "corrected": A},
        [USER, said("assistant", f"{BAD}\n\nSei.\n\n{A}")],
    ),
    "axolotl explainchoice": (
        {"question": Q, "choices": ["mar", "floresta"], "solution": A},
        [said("user", f"{Q}\n\n- mar\n- floresta"), GOOD],
    ),
    "axolotl concisechoice": (
        {"question": Q, "choices": ["mar", "floresta"], "explanation": A},
        [said("user", f"{Q}\n\n- mar\n- floresta"), GOOD],
    ),
    "axolotl summarizetldr": (
        {"article": CONTEXT, "summary": A},
        [said("user", CONTEXT), GOOD],
    ),
    "axolotl load_qa": ({"question": Q, "answer": A}, [USER, GOOD]),
    "axolotl camel_ai": ({"message_1": Q, "message_2": A}, [USER, GOOD]),
    "axolotl open_orca": (
        {"system_prompt": SYSTEM, "question": Q, "response": A},
        [SYSTEM_TURN, USER, GOOD],
    ),
    "axolotl context_qa": ({"article": CONTEXT, "question": Q, "answer": A}, [ASKED, GOOD]),
    "axolotl context_qa.load_v2": (
        {"context": CONTEXT, "question": Q, "answer": A},
        [ASKED, GOOD],
    ),
    "axolotl creative_acr": ({"instruction": Q, "revision": A}, [USER, GOOD]),
    "axolotl metharme": ({"prompt": Q, "generation": A}, [USER, GOOD]),
    "dolly": ({"instruction": Q, "context": CONTEXT, "response": A}, [ASKED, GOOD]),
    "question with input": ({"question": Q, "input": CONTEXT, "answer": A}, [ASKED, GOOD]),
}
# Fields with text that a layout does not learn.
UNUSED = {"axolotl jeopardy": ["category"]}

PAIR = ([USER, GOOD], [USER, WORSE])
SYSTEM_PAIR = ([SYSTEM_TURN, USER, GOOD], [SYSTEM_TURN, USER, WORSE])
# name: (record, the conversations with the preferred and the rejected answer)
PREFERENCES: dict[str, tuple[dict[str, Any], tuple[Any, Any]]] = {
    "trl explicit": ({"prompt": Q, "chosen": A, "rejected": BAD}, PAIR),
    "trl implicit texts": (
        {"chosen": f"{Q} {A}", "rejected": f"{Q} {BAD}"},
        PAIR,
    ),
    "trl conversational": ({"prompt": [USER], "chosen": [GOOD], "rejected": [WORSE]}, PAIR),
    "trl implicit": ({"chosen": [USER, GOOD], "rejected": [USER, WORSE]}, PAIR),
    "factory alpaca": (
        {"instruction": Q, "input": CONTEXT, "chosen": A, "rejected": BAD},
        ([ASKED, GOOD], [ASKED, WORSE]),
    ),
    "factory sharegpt": (
        {
            "conversations": [told("human", Q)],
            "chosen": told("gpt", A),
            "rejected": told("gpt", BAD),
        },
        PAIR,
    ),
    "axolotl argilla": (
        {"system": SYSTEM, "instruction": Q, "chosen_response": A, "rejected_response": BAD},
        SYSTEM_PAIR,
    ),
    "axolotl icr": ({"system": SYSTEM, "input": Q, "chosen": A, "rejected": BAD}, SYSTEM_PAIR),
    "axolotl intel": ({"system": SYSTEM, "question": Q, "chosen": A, "rejected": BAD}, SYSTEM_PAIR),
    "axolotl ultra": (
        {"system": SYSTEM, "prompt": Q, "chosen": [USER, GOOD], "rejected": [USER, WORSE]},
        SYSTEM_PAIR,
    ),
    "axolotl nectar": (
        {"prompt": Q, "answers": [{"answer": BAD, "rank": 2}, {"answer": A, "rank": 1}]},
        PAIR,
    ),
    "axolotl chat_template": (
        {"messages": [SYSTEM_TURN, USER], "chosen": GOOD, "rejected": WORSE},
        SYSTEM_PAIR,
    ),
    "openai": (
        {
            "input": {"messages": [USER], "parallel_tool_calls": True},
            "preferred_output": [GOOD],
            "non_preferred_output": [WORSE],
        },
        PAIR,
    ),
    "hh-rlhf": (
        {
            "chosen": f"\n\nHuman: {Q}\n\nAssistant: {A}",
            "rejected": f"\n\nHuman: {Q}\n\nAssistant: {BAD}",
        },
        PAIR,
    ),
}
