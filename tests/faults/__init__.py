"""Checks while things go wrong: signals, forks, ends of processes, little memory. `bench/faults.py` does more of it."""
