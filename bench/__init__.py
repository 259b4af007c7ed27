"""Benchmarks: `make bench` runs them all; `bench.report` says how they tell their results."""
