"""The evaluation protocol, its metrics, and the runs of every model and baseline rule under it."""
