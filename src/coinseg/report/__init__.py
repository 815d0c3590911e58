"""The HTML report of a run folder and its pictures."""
