"""Training data: tiles, regions drawn on slides, labelled files, projects."""
