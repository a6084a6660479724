"""The evaluation protocol, ranking metrics, and the lists of all models and heuristics under the protocol."""
