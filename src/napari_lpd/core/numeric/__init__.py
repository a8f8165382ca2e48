"""What loops over numbers share."""
