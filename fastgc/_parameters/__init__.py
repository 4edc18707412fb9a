"""What is checked: the parameters, how they are laid out, matched, sampled and drawn."""
