"""Data of one language per folder: thresholds, stop words, patterns, prompts."""
