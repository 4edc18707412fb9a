"""Pass, fail or undecided: of entries, of probes, of tensors."""
