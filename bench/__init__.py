"""Benchmarks: ratios in one run against a floor, never a bare figure."""
