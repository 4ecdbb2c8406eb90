"""Stage corpus: raw text to clean, deduplicated, licensed documents."""
