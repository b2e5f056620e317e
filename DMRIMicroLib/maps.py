"""Results: named maps with unit, range, uncertainty and provenance, on a scan's grid."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .files import staged
from .index import FORMAT_VERSION, INDEX, check_folder, listed, read_index, scan_of
from .metric import Flag, Metric


@dataclass(frozen=True, eq=False)
class Map:
    """One map: ``np.asarray(map)`` gives its array.

    Attributes
    ----------
    metric : Metric
        What it shows.
    model : str
        Name of the model or method that it comes from.
    data : (x, y, z) or (x, y, z, channels) float32 array
        0 outside the fitted voxels.
    uncertainty : array like `data`, optional
        Standard deviation.
    """

    metric: Metric
    model: str
    data: NDArray[np.float32]
    uncertainty: NDArray[np.float32] | None = None

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray:
        return np.array(self.data, dtype=dtype, copy=copy)

    @property
    def unit(self) -> str:
        """Unit of the values."""
        return self.metric.unit

    @property
    def file_stem(self) -> str:
        """BIDS-derivatives name without suffix."""
        return f"model-{self.model}_param-{self.metric.label}"


@dataclass(frozen=True, eq=False)
class MapSet(Mapping[str, Map]):
    """Maps that share a grid: ``maps["FA"]``.

    Attributes
    ----------
    maps : dict of str to Map
        By metric name.
    affine : (4, 4) array
        Voxel indices to RAS millimetres.
    mask : (x, y, z) bool array
        Voxels that hold an answer. The maps are 0 elsewhere.
    provenance : dict of model name to dict
        How the maps of each model were made (JSON values only).
    flags : dict of model name to (x, y, z) uint8 array
        What to think of each voxel, see `Flag`.
    """

    maps: dict[str, Map]
    affine: NDArray[np.float64]
    mask: NDArray[np.bool_]
    provenance: dict[str, dict[str, Any]]
    flags: dict[str, NDArray[np.uint8]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Map:
        try:
            return self.maps[name]
        except KeyError:
            raise KeyError(f"no map {name!r}; there are {', '.join(self.maps)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.maps)

    def __len__(self) -> int:
        return len(self.maps)

    def merged(self, other: MapSet) -> MapSet:
        """Put the maps of two runs on one grid together; the other's win where both have one."""
        if self.mask.shape != other.mask.shape or not np.allclose(
            self.affine, other.affine, atol=1e-4
        ):
            raise InputError("the two sets of maps lie on different grids", "Keep them apart.")
        return replace(
            self,
            maps={**self.maps, **other.maps},
            mask=self.mask | other.mask,
            provenance={**self.provenance, **other.provenance},
            flags={**self.flags, **other.flags},
        )

    def save(
        self,
        folder: str | Path,
        *,
        overwrite: bool = False,
        texts: Mapping[str, str | None] | None = None,
    ) -> Path:
        """Write every map as NIfTI with a JSON sidecar, and ``maps.json``; return its path.

        `texts` are files that belong to the maps (a report, say) and appear together with them;
        None stands for one that is to go, because it would tell of other maps.

        Maps of other models of the same scan that already lie in the folder stay and stay listed;
        files of maps that are listed no more go. All files are staged and renamed, so that a
        failure leaves the folder as it was.

        Raises
        ------
        InputError
            If the folder cannot be written, or holds maps of another scan, or another model's map
            of the same metric, or a list of maps that cannot be read, and `overwrite` is off.
        """
        folder = Path(folder)
        before = listed(folder / INDEX)
        entries, provenance = self._kept(folder, overwrite)
        with staged(folder, last=INDEX) as stage:
            for item in self.maps.values():
                entries.append(self._write(item, stage))
            for model in self.provenance:
                flags = self.flags.get(model, self.mask.astype(np.uint8))
                self._nifti(flags, stage / _flags_file(model))
            for name, text in (texts or {}).items():
                if text is not None:
                    (stage / name).write_text(text, encoding="utf-8")
            index = {
                "format": "DMRIMicro maps",
                "version": FORMAT_VERSION,
                "maps": entries,
                "flags": {model: _flags_file(model) for model in provenance},
                "flag_meaning": {int(flag): flag.name.lower() for flag in Flag},
                "provenance": provenance,
            }
            _dump(index, stage / INDEX)
        for name in before - listed(folder / INDEX):
            (folder / name).unlink(missing_ok=True)
        for name, text in (texts or {}).items():
            if text is None:
                (folder / name).unlink(missing_ok=True)
        return folder / INDEX

    @classmethod
    def load(cls, folder: str | Path) -> MapSet:
        """Read what `save` wrote."""
        index_file = Path(folder) / INDEX
        index = read_index(index_file)
        if index is None:
            raise InputError(
                "there is no such file",
                "Give a folder that `dmrimicro fit` wrote.",
                file=index_file,
            )
        maps: dict[str, Map] = {}
        for entry in index["maps"]:
            metric = Metric(
                **{k: entry[k] for k in ("title", "unit", "colormap", "kind")},
                name=entry["metric"],
                low=entry["range"][0],
                high=entry["range"][1],
                window=tuple(entry["window"]),
            )
            read = {
                k: _load(Path(folder) / entry[k])[0]
                for k in ("file", "uncertainty_file")
                if k in entry
            }
            maps[metric.name] = Map(
                metric, entry["model"], read["file"], read.get("uncertainty_file")
            )
        read = {model: _load(Path(folder) / file) for model, file in index["flags"].items()}
        flags = {model: data.astype(np.uint8) for model, (data, _) in read.items()}
        mask = np.logical_or.reduce([f > 0 for f in flags.values()])
        affine = next(iter(read.values()))[1]
        return cls(maps, affine, mask, index["provenance"], flags)

    def _kept(self, folder: Path, overwrite: bool) -> tuple[list[dict], dict[str, dict]]:
        """Entries of an earlier run in `folder` that stay, and the provenance of all."""
        mine = {scan_of(p).get("fingerprint") for p in self.provenance.values()}
        index = check_folder(folder, *mine, overwrite=overwrite)
        if index is None:
            return [], dict(self.provenance)
        entries = [e for e in index["maps"] if e["model"] not in self.provenance]
        same: dict[str, str] = {}
        for entry in entries:
            if entry["metric"] in self.maps:
                same.setdefault(entry["model"], entry["metric"])
        if same and not overwrite:
            model, metric = next(iter(same.items()))
            raise InputError(
                f"this folder holds {metric} of {model} already, and one folder holds one",
                "Give another folder; or overwrite, and the maps of that model go.",
                file=folder,
            )
        entries = [e for e in entries if e["model"] not in same]
        provenance = {k: v for k, v in index["provenance"].items() if k not in same}
        return entries, {**provenance, **self.provenance}

    def _write(self, item: Map, stage: Path) -> dict[str, Any]:
        metric = item.metric
        entry: dict[str, Any] = {
            "metric": metric.name,
            "title": metric.title,
            "model": item.model,
            "unit": metric.unit,
            "kind": metric.kind,
            "file": f"{item.file_stem}_dwimap.nii.gz",
            "range": [metric.low, metric.high],
            "window": list(metric.window),
            "colormap": metric.colormap,
        }
        if metric.kind != "scalar":
            entry["frame"] = "RAS world coordinates"
            entry["components"] = (
                ["xx", "yy", "zz", "xy", "xz", "yz"] if metric.kind == "tensor" else ["x", "y", "z"]
            )
        self._nifti(item.data, stage / entry["file"])
        if item.uncertainty is not None:
            entry["uncertainty_file"] = f"{item.file_stem}_desc-sd_dwimap.nii.gz"
            self._nifti(item.uncertainty, stage / entry["uncertainty_file"])
        _dump(
            {**entry, "provenance": self.provenance[item.model]},
            stage / f"{item.file_stem}_dwimap.json",
        )
        return entry

    def _nifti(self, data: NDArray, file: Path) -> None:
        image = nib.Nifti1Image(
            data if data.dtype == np.uint8 else data.astype(np.float32), self.affine
        )
        image.header.set_xyzt_units("mm")
        nib.save(image, file)


def voxel_remarks(model: str, voxels: Mapping[str, int]) -> list[str]:
    """Say, from a provenance's counts, what of the mask or the signal could not be used."""
    told = []
    if voxels.get("left_out"):
        told.append(
            f"{model}: {voxels['left_out']} voxels of the mask have no usable signal and stay empty"
        )
    if voxels.get("unusable_samples"):
        told.append(
            f"{model}: {voxels['unusable_samples']} samples in {voxels['with_unusable_samples']} "
            "voxels are zero, negative or not finite and were given no weight"
        )
    meanings = {
        "not_converged": "did not converge",
        "out_of_range": "have a metric beyond its valid range, set to the limit",
        "undetermined": "have too little tissue signal for some metrics to mean anything",
    }
    told += [
        f"{model}: {voxels[key]} voxels {meaning} (see the flags)"
        for key, meaning in meanings.items()
        if voxels.get(key)
    ]
    return told


def said_once(remarks: Mapping[str, Sequence[str]]) -> list[str]:
    """Gather remarks 'dti: ...', by model, that are true of several: 'dti, dki: ...'."""
    models: dict[str, list[str]] = {}
    for model, told in remarks.items():
        for remark in told:
            models.setdefault(remark.removeprefix(f"{model}: "), []).append(model)
    return [f"{', '.join(names)}: {remark}" for remark, names in models.items()]


def _flags_file(model: str) -> str:
    return f"model-{model}_desc-flags_dseg.nii.gz"


def _dump(content: dict, file: Path) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _load(file: Path) -> tuple[NDArray, NDArray]:
    try:
        image = nib.load(file)
        return np.asarray(image.dataobj), image.affine  # type: ignore[attr-defined]
    except (OSError, EOFError, nib.filebasedimages.ImageFileError) as error:
        raise InputError(f"cannot be read ({error})", "Run the fit again.", file=file) from error
