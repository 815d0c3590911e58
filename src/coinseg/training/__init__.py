"""Everything that learns: f, the generators, the pseudo-masks, the student, the memory bank."""
