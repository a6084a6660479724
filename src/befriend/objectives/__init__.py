"""Training objectives of the models: training queries, candidates, losses and validation."""
