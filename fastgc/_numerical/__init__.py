"""Numerical derivatives, and studies of their errors, without a verdict on single entries."""
