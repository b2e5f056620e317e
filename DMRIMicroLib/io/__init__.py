"""Ways in: NIfTI with bval/bvec, DWI NRRD, DICOM folders. `load` tells them apart."""

from .load import load

__all__ = ["load"]
