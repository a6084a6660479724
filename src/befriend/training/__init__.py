"""Training: settings, the loop every model shares, its checkpoints and curves; losses and negatives."""
