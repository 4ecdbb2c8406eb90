"""Filters: which documents stay, and why the others are dropped."""
