"""The stages of the pipeline: each reads files, calls the core, and writes files."""
