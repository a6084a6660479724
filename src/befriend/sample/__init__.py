"""The embedded default: a simulated event log of about 3,000 users (see README.md beside this file)."""
