"""The networks that are not explanations themselves: the classifier f, the student U-Net, the ImageNet encoder, the memory bank."""
