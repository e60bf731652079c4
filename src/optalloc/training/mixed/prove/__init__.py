"""The bound of a mixed search proved once more, with no code of the search."""
