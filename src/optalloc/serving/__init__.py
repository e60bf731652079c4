"""Serving: where layers go, what is offloaded, which devices to rent."""
