"""Requests over replicas of a serving engine: arrivals, batches, cache, latencies."""
