"""Scripts that exports copy verbatim; what differs from plan to plan is in the JSON beside them."""
