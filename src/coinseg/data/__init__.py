"""From files to prepared slices: readers, intensity, the synthetic anomaly, the phantom, the slice store."""
