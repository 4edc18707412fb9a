"""The command line, and the demonstration that it runs."""
