"""A social network that makes an event log, for samples, tests and benchmarks."""
