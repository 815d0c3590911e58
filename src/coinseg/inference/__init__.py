"""A trained run without its training data: it is asked about images and scans."""
