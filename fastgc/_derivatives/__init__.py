"""Slopes with their uncertainty: of single entries and along random directions."""
