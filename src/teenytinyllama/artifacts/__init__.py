"""What one stage writes for the next: one module an artifact."""
