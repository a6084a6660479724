"""Reads rows from files: Parquet, CSV, white space and JSON Lines, one file or many."""
