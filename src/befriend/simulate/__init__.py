"""Simulates a social network and its event log, for samples, tests and benchmarks."""
