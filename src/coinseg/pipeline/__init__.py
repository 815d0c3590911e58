"""A run folder from data to masks, and the segmentation of new scans with it."""
