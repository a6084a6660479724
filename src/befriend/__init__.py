"""People recommendation, from event log to ranked people."""
