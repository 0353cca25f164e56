"""Measurements; `python -m benchmarks` prints them as one table."""
