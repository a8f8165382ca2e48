"""Whole slides: open any format, read any rectangle at any resolution, find tissue, compare stains."""
