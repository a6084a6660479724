"""Turns raw rows into prepared tables: checks of rows, internal ids, the profile of the log, and rules on it."""
