"""The dense CRF on a permutohedral lattice."""
