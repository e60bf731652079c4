"""The cheapest fleet of unequal replicas for a load of requests."""
