"""The evaluation protocol, ranking metrics, and the lists of all models and baseline rules under the protocol."""
