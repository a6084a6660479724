"""Models in PyTorch: towers over users and histories, and what they are made of. They know tensors, not files."""
