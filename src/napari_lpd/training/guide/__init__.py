"""What helps while drawing: how right a model is about regions that it has not seen."""
