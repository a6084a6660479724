"""PyTorch building blocks that several packages share."""
