"""The cost model: compute, communication, memory, price."""
