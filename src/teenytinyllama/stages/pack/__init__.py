"""Stage pack: documents to token sequences."""
