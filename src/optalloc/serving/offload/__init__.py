"""Offload: weights, experts and KV cache over unequal GPUs, CPU memory and disk."""
