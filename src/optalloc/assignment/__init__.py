"""The formal model: N tasks on M units, each task once, no unit beyond its capacity."""
