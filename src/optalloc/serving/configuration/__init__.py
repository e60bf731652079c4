"""How each engine of a serving deployment is set up, and how many there are; proven."""
