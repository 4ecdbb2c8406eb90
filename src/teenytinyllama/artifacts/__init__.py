"""Doorways: what one room leaves for the next, one file per artifact."""
