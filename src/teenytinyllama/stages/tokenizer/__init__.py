"""Stage tokenizer: documents to vocabulary."""

from teenytinyllama.stages.interface import Stage

STAGE = Stage(name="tokenizer", title="documents -> vocabulary", reads=("corpus",), has_checks=True)
