"""From what a model says of a place to its label: one rule, in NumPy, for results, previews and the live mask."""
