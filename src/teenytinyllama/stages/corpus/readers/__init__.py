"""Readers: files, archives, tables and Hub data sets into raw records."""
