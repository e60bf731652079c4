"""What an inference engine costs: its setup, the time of an iteration, and a load on it."""
