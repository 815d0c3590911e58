"""What leaves coinseg for other programs: a run in one folder, ONNX, DICOM SEG, nnU-Net data.

from coinseg.export.folder import export_run
from coinseg.export.dicom_seg import write_dicom_seg
from coinseg.export.nnunet import write_nnunet
"""
