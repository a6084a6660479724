"""Turns raw rows into checked events: row rules, internal ids, the log's profile, and the rules on the whole log."""
