"""Speed and memory of tracking beside upstream's predictor: what is measured, in which process, and how it is told."""
