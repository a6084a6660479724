"""PyTorch models: query and target towers, the STU model, clusters, and their building blocks.

The modules see only tensors; `trained_model` and `trained_clusters` read and write their files.
"""
