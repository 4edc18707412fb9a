"""The check of a gradient."""
