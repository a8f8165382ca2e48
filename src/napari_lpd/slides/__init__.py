"""Whole slides: open any format, read any rectangle at any resolution, detect tissue, compare stains."""
