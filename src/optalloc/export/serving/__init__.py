"""Files that run a serving plan with other software."""
