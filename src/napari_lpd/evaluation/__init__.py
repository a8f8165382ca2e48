"""Measure a model on images with masks."""
