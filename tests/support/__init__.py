"""What several tests use: losses, catalogues of problems, and small tools."""
