"""The counterfactual methods: networks, losses and the algorithm itself (`coin.py`)."""
