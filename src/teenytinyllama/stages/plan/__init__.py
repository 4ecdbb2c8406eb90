"""ROOM plan: money or hours, a card and the text on hand -> a model worth training (paper 3.1).

Needs no torch and answers at once. `make_plan` is the answer, `show` puts it on the terminal,
`recipe_text` makes the recipe of it.
"""

from teenytinyllama.stages.plan.facts import Gpu, gpus, law_names
from teenytinyllama.stages.plan.planner import Plan, Question, make_plan
from teenytinyllama.stages.plan.recipe_file import LanguageNotes, recipe_text
from teenytinyllama.stages.plan.terminal import show
from teenytinyllama.stages.plan.text import TextOnHand, text_on_hand

__all__ = [
    "Gpu",
    "LanguageNotes",
    "Plan",
    "Question",
    "TextOnHand",
    "gpus",
    "law_names",
    "make_plan",
    "recipe_text",
    "show",
    "text_on_hand",
]
