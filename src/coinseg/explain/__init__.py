"""Why f calls an image abnormal: counterfactuals (COIN, Singla et al.) and attributions (CAMs, RISE), behind one registry."""
