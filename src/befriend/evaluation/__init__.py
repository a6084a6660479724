"""The evaluation protocol, its metrics, and the baselines every model must beat."""
