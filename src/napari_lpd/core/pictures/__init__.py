"""What pictures of every kind share."""
