"""What leaves coinseg for other programs: a run in one folder, ONNX, DICOM SEG, nnU-Net data."""
