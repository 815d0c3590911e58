"""Counterfactual methods: generator, discriminator, losses, and the algorithms COIN and Singla et al."""
