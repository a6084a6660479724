"""The page and the model card of a run: the results of all other stages in a single place."""
