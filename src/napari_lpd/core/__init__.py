"""Errors, files, jobs, geometry, tissue classes and settings: what every other wing builds on."""
