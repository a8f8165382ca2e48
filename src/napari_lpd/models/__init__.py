"""Prototype networks: encoder, class activation maps, checkpoints, and the device that computes them."""
