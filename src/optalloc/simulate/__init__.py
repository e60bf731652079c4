"""Simulation of plans: event time of the pipeline, memory over time, and traces."""
