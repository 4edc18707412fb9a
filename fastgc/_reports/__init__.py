"""What was found, as data and as text."""
