"""Proof that graphs and tracks equal upstream's: the measures, the cases and the two runs that they compare."""
