"""Whether a model can be trusted: what it says of regions whose tissue is known."""
