"""Stage tokenizer: documents to vocabulary."""
