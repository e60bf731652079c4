"""Families: one reader an architecture, from the keys of its ``config.json`` to a ModelSpec."""
