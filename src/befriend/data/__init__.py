"""Event logs: reading, checking, splitting, histories, and a simulator that makes one."""
