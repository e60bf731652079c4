"""Training plans: the decision space, exact search, and its certificate."""
