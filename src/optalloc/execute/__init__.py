"""Running plans for real, and comparing what was measured with what was predicted."""
