"""Random calls of the public functions, and what must hold after each of them."""
