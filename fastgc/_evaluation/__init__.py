"""Loss values at displaced points: from Python, compiled loops, processes or batches."""
