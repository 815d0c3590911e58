"""From a map to a clean mask: refine, threshold, clean, and how far to trust it."""
