"""Statelens beside hand-written JAX and its peers, on the same work: `python -m benchmarks`."""
