"""Models: what is computed, from a published configuration to a graph of operations."""
