"""Drift measures, and the settings of drift, promotion gate and run registry, for a pipeline that runs every day."""
