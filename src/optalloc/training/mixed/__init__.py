"""Training plans on mixed clusters: several device types, node sizes and zones in one plan."""
