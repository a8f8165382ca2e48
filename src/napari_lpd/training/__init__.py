"""Train a prototype network from image-level labels."""
