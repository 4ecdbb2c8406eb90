"""Stages: each is a function from folders to one folder, and knows no other stage."""
