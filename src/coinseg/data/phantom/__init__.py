"""A procedural CT cohort to try everything on."""
