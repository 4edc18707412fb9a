"""Checks for users of SciPy: all derivatives of a problem in one call, and at the points that a solver visits."""
