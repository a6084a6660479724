"""Reusable Prefect tasks, one module a subject. Prefect owns when a stage runs; DVC owns whether it does."""
