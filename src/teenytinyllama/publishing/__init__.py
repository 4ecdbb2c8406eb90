"""Publish a run to the Hugging Face Hub (`ttl publish`)."""
