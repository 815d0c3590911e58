"""The counterfactual methods: networks, losses and the algorithms themselves (`coin.py`, `singla.py`)."""
