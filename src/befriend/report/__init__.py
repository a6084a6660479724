"""The page and the model card of a run: what every other stage measured, in one place."""
