"""Numerical derivatives, their errors by step, and what checks cost, without a verdict on single entries."""
