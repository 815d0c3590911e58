"""Numbers computed from arrays: overlap, ranking, distances, Fréchet distance."""
