"""Drift measures, and the settings of drift, gate and registry, for a pipeline that runs every day."""
