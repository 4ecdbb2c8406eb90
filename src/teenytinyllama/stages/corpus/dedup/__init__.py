"""Near duplicates and repeated paragraphs."""
