"""Search in the training text and attribution of answers."""
