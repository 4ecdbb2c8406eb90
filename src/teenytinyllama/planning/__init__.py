"""STAGE plan: money or hours, a card and the text on hand -> a model worth training (paper 3.1).

Needs no torch and answers at once. `make_plan` is the answer, `show` puts it on the terminal,
`recipe_text` makes the recipe of it.
"""

from teenytinyllama.planning.corpus_size import TextOnHand, text_on_hand
from teenytinyllama.planning.new_recipe import LanguageNotes, recipe_text
from teenytinyllama.planning.plan_display import show
from teenytinyllama.planning.planner import Plan, Question, make_plan
from teenytinyllama.planning.reference_data import Gpu, gpus, law_names

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
