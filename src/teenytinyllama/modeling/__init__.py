"""Model sizes, FLOPs, building, loading and starting models, LoRA."""
