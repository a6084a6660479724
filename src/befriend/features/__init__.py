"""Point-in-time features of users and pairs: what was known of them at any cutoff, from the events before it."""
