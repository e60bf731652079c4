"""Studies that measure the package: ``python -m benchmarks STUDY --help``."""
