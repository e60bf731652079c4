"""Exports of offload plans: one module a runtime."""
