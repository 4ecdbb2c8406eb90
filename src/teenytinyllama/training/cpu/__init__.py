"""What only a CPU needs to train fast. The loop need not know it."""
