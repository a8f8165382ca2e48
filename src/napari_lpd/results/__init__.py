"""Predictions on disk: labels, maps, corrections, areas, exports."""
