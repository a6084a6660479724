"""Evaluation details behind the headline figures: slices, intervals, exposure, calibration, latency, clusters."""
