"""PyTorch building blocks that several models share."""
