"""What a prediction leaves on disk: labels, maps, corrections, measures."""
