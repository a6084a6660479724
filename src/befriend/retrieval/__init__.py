"""From requests to ranked users: retrieval with each model, heuristics, and the ranker over their candidates."""
