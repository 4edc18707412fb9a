"""Which bug the numbers are consistent with."""
