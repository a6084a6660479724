"""The event log in memory: columns and table contracts, users' attributes, the time split, regimes and erased users."""
