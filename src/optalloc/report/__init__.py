"""Answers as people read them: terminal tables, pages, plots."""
