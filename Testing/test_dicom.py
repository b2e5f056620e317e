"""DICOM in: a small series written here, converted by the real dcm2niix."""

import numpy as np
import pydicom
import pytest
from phantom import angle_deg, protocol, ring_axes, ring_scan
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

import DMRIMicroLib as dm
from DMRIMicroLib.errors import Cancelled, InputError
from DMRIMicroLib.io import dicom

AFFINE = np.array([[-2.0, 0, 0, 20], [0, -2.0, 0, 18], [0, 0, 2.5, -7], [0, 0, 0, 1]])
"""Axial, rows to the left and columns to the back, as scanners store it."""


def write_series(folder, scan, number=7):
    """One classic file a slice and volume, standard diffusion attributes (as Philips writes)."""
    folder.mkdir(parents=True, exist_ok=True)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    acq = scan.acquisition
    instance = 0
    for v in range(len(acq)):
        for z in range(scan.shape[2]):
            instance += 1
            image = Dataset()
            image.file_meta = FileMetaDataset()
            image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = MRImageStorage
            image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = generate_uid()
            image.Modality, image.Manufacturer = "MR", "Philips"
            image.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
            image.PatientName, image.PatientID, image.PatientPosition = "ring", "1", "HFS"
            image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = (
                study,
                series,
                frame,
            )
            image.SeriesNumber, image.InstanceNumber, image.AcquisitionNumber = (
                number,
                instance,
                v + 1,
            )
            image.StudyDate, image.AcquisitionTime = "20260101", f"{120000 + v}"
            image.SeriesDescription, image.ProtocolName = "DTI", "DTI"
            image.Rows, image.Columns = scan.shape[1], scan.shape[0]
            image.PixelSpacing, image.SliceThickness, image.SpacingBetweenSlices = [2, 2], 2.5, 2.5
            image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
            position = scan.affine @ [0, 0, z, 1]
            image.ImagePositionPatient = [-position[0], -position[1], position[2]]
            image.EchoTime, image.RepetitionTime, image.MagneticFieldStrength = 80, 5000, 3
            image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
            image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = (
                16,
                16,
                15,
                0,
            )
            image.PixelData = scan.signal[:, :, z, v].T.round().astype("<u2").tobytes()
            image.DiffusionBValue = float(acq.bvals[v])
            if acq.bvals[v] > 0:  # in the patient's frame: L, P, S
                image.DiffusionDirectionality = "DIRECTIONAL"
                image.DiffusionGradientOrientation = [
                    -float(acq.bvecs[v, 0]),
                    -float(acq.bvecs[v, 1]),
                    float(acq.bvecs[v, 2]),
                ]
            image.save_as(folder / f"{number:03d}_{instance:04d}.dcm", enforce_file_format=True)


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dicom") / "series"
    write_series(folder, ring_scan(protocol(b0=1), affine=AFFINE, shape=(16, 18, 8)))
    return folder


def test_a_dicom_folder_gives_fibres_where_they_are(series):
    scan = dm.load(series)
    assert scan.acquisition.describe() == "1 b0, 12 x b1000"
    assert any("dcm2niix" in note for note in scan.notes)
    maps = dm.fit(scan.with_mask(np.ones(scan.shape)), "dti")
    inner = (slice(2, -2), slice(2, -2))
    angle = angle_deg(np.asarray(maps["V1"]), ring_axes(scan.affine, scan.shape))[inner]
    assert np.percentile(angle, 95) < 1
    np.testing.assert_allclose(np.asarray(maps["MD"])[inner], (1.7e-3 + 0.6e-3) / 3, rtol=0.02)


def test_a_folder_without_diffusion_is_refused(tmp_path):
    (tmp_path / "note.txt").write_text("nothing here")
    with pytest.raises(InputError, match="no diffusion series was found"):
        dm.load(tmp_path)


def test_the_conversion_is_told_of_and_can_be_stopped(series):
    told = []
    dm.load(series, progress=lambda *news: told.append(news))
    assert set(told) == {(0.0, "Converting DICOM")}

    def stop(*_):
        raise Cancelled

    with pytest.raises(Cancelled):
        dm.load(series, progress=stop)


def test_two_series_are_refused_by_name(tmp_path):
    scan = ring_scan(protocol(b0=1), affine=AFFINE, shape=(8, 8, 3))
    write_series(tmp_path, scan, 7)
    write_series(tmp_path, scan, 9)
    with pytest.raises(InputError, match=r"there are 2 diffusion series in it: 7_DTI, 9_DTI"):
        dm.load(tmp_path)


def test_without_dcm2niix_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "dcm2niix", None)
    monkeypatch.setattr(dicom.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="pip install dcm2niix"):
        dm.load(tmp_path)


def test_pydicom_wrote_what_it_should(series):
    image = pydicom.dcmread(next(iter(sorted(series.iterdir()))))
    assert (image.Rows, image.Columns) == (18, 16)
