"""From a case to square slices in [0, 1], their store, their split, and what training sees of them."""
