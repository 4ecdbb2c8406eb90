"""Doorways: what one stage leaves for the next, one file per artifact."""
