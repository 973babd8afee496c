"""Benchmarks: each a module run by `make bench-NAME`; peers in the same run, medians, ratios."""
