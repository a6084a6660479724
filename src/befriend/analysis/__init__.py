"""Evaluation beyond the headline metrics: slices, intervals, exposure, calibration, latency, clusters, comparisons."""
