"""Segment slides with a trained model."""
