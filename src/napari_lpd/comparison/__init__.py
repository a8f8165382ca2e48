"""Compare models' prototypes on the same tiles."""
