"""How good tracks are, where the truth is known: DAVIS sequences, prompts from their annotations, J and F."""
