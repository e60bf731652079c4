"""Exports: launch files of other tools, written from a plan."""
