"""Task files in lm-evaluation-harness's format, and the readers of their fields."""
