"""Explanations of f: counterfactuals (COIN, Singla et al.) and attributions (CAMs, RISE), with one registry."""
