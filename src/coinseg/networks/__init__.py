"""Networks other than the counterfactual ones: classifier f, student U-Net, ImageNet encoder."""
