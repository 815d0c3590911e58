"""Scores of masks and of the classifier on held-out patients, and the audit that needs no mask."""
