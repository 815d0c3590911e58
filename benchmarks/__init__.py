"""Speed of coinseg against plain, faithful implementations of the same maths, each pair in one run: `python -m benchmarks`."""
