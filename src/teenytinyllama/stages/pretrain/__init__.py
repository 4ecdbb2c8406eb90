"""Stage pretrain: token sequences to base model."""
