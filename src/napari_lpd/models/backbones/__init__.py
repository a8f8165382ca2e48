"""timm's networks as backbones of encoders: what is built, with which weights, and what its input looks like."""
