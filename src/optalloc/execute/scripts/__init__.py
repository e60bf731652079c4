"""Scripts that this package starts in other processes; they need torch and nothing else."""
