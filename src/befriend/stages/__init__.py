"""The stages of the pipeline: each one reads files, calls the core packages, and writes files."""
