"""Prefect tasks, a module per subject. Prefect decides when a stage may run; DVC decides whether it has to."""
