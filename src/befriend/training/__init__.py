"""Training: settings, the training loop that every model shares, its checkpoints and curves."""
