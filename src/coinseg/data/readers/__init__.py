"""Volumes and images as files hold them: NIfTI, NRRD, MetaImage, DICOM, PNG, TIFF; their geometry and limits."""
