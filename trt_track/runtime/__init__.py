"""Video in, prompts, memory bank, tracking loop, results out."""
