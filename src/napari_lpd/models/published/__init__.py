"""Weights and checkpoints of published code, under the names of ours."""
