"""Recording what other programs compute, as traces of this one's format."""
