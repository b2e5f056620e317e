"""The commands `dmrimicro pretrain` and `dmrimicro finetune`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .arguments import BigDelta, EchoTime, SmallDelta, Threads, names_in
from .errors import InputError
from .terminal import ProgressStyle, shown

if TYPE_CHECKING:
    from .io.bids import ScanFiles
    from .pretrain import Settings, Target


class Reference(StrEnum):
    """What is the truth of a target's scans."""

    fit = "fit"
    maps = "maps"


class Way(StrEnum):
    """Ways from one q-space scheme to another."""

    dictionary = "dictionary"
    sh = "sh"
    shore = "shore"
    mapmri = "mapmri"
    space = "space"


class Preset(StrEnum):
    """Lengths of the training: `pretrain.presets`."""

    cpu = "cpu"
    gpu = "gpu"
    short = "cpu-short"


Network = Annotated[
    str, typer.Argument(help="Weights to begin with: codebook, or a .safetensors file.")
]
Out = Annotated[Path, typer.Option(help="Folder for slices, checkpoint, log, weights and card.")]
Subjects = Annotated[
    str, typer.Option(help="Labels, with or without sub-, commas between; all if left out.")
]
Sessions = Annotated[str, typer.Option(help="Labels, with or without ses-; all if left out.")]
HeldOut = Annotated[
    str, typer.Option(help="Subjects that say when to stop; a fifth of them if left out.")
]
Scheme = Annotated[
    str, typer.Option(help="Of the short scans: short.bval,short.bvec, or one of them (NIfTI).")
]
SNR = Annotated[
    str,
    typer.Option(
        help="Of the target's b0, one number or a range: 15,30. `dmrimicro info` tells a scan's.",
        show_default=False,
    ),
]
Ways = Annotated[Way, typer.Option(help="How signals are moved to the target's scheme.")]
Length = Annotated[Preset, typer.Option(help="How long: cpu an hour or two, cpu-short minutes.")]
Steps = Annotated[int | None, typer.Option(help="Of the training, at most.", min=1)]
Seed = Annotated[int, typer.Option(help="The same seed gives the same training.")]
Workers = Annotated[int, typer.Option(help="Processes that make examples; 0 for none.", min=0)]
Name = Annotated[str, typer.Option(help="Of the weights. It goes into files: nobody's name.")]
Version = Annotated[str, typer.Option(help="Of the weights.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Style = Annotated[ProgressStyle, typer.Option(help="How to show progress.")]


def pretrain(
    network: Network,
    auxiliary: Annotated[Path, typer.Option(help="Data set of good scans: BIDS or HCP.")],
    target_scheme: Scheme,
    out: Out,
    target_voxel: Annotated[
        str, typer.Option(help="Edges of the target's voxels [mm]: 2, or 2,2,3.")
    ] = "",
    snr: SNR = "",
    subjects: Subjects = "",
    session: Sessions = "",
    held_out: HeldOut = "",
    interpolation: Ways = Way.dictionary,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin with random weights of the same shape.")
    ] = False,
    preset: Length = Preset.cpu,
    steps: Steps = None,
    seed: Seed = 0,
    name: Name = "codebook-pretrained",
    version: Version = "1.0.0",
    delta: SmallDelta = None,
    Delta: BigDelta = None,
    TE: EchoTime = None,
    workers: Workers = 0,
    device: Device = "auto",
    threads: Threads = None,
    progress: Style = ProgressStyle.bar,
) -> None:
    """Let the codebook learn from good scans of others, brought to the quality of one's own.

    The same command takes up a training that was stopped.
    """
    scans = _scans(auxiliary, subjects, session, out, version)
    times = {"delta": delta, "Delta": Delta, "TE": TE}
    target = _target(target_scheme, target_voxel, snr, times)
    from .pretrain import pretrain as make

    settings = _settings(preset, False, steps, seed, device, threads)
    options = {"reading": _given(times), "device": settings.accelerator, "workers": workers}
    options |= {"name": name, "version": version, "held_out": names_in(held_out)}
    with shown(progress) as tell:
        words = {"settings": settings, "fresh": fresh, "way": interpolation.value}
        card = make(network, scans, target, out, progress=tell, **words, **options)
    _say(card)


def finetune(
    network: Network,
    data: Annotated[Path, typer.Option(help="Data set of full scans of the target: BIDS or HCP.")],
    out: Out,
    reference: Annotated[
        Reference, typer.Option(help="The truth: fits to the full scans, or maps that are given.")
    ] = Reference.fit,
    maps: Annotated[
        Path | None, typer.Option(help="Data set of these maps; DATA/derivatives if left out.")
    ] = None,
    subjects: Subjects = "",
    session: Sessions = "",
    held_out: HeldOut = "",
    target_scheme: Scheme = "",
    snr: SNR = "",
    interpolation: Ways = Way.dictionary,
    preset: Length = Preset.cpu,
    steps: Steps = None,
    seed: Seed = 0,
    name: Name = "codebook-finetuned",
    version: Version = "1.0.0",
    delta: SmallDelta = None,
    Delta: BigDelta = None,
    TE: EchoTime = None,
    workers: Workers = 0,
    device: Device = "auto",
    threads: Threads = None,
    progress: Style = ProgressStyle.bar,
) -> None:
    """Fine-tune the codebook on a handful of scans.

    Without --target-scheme it is made for any part of these scans' own volumes. The same command
    takes up a training that was stopped.
    """
    if snr and not target_scheme:
        raise InputError("--snr was given without a scheme", "Give --target-scheme, too.")
    if maps is not None and reference is Reference.fit:
        raise InputError("maps were given and are not the truth", "Say --reference maps.")
    scans = _scans(data, subjects, session, out, version)
    times = {"delta": delta, "Delta": Delta, "TE": TE}
    target = _target(target_scheme, "", snr, times) if target_scheme else None
    from .pretrain import finetune as make

    settings = _settings(preset, True, steps, seed, device, threads)
    options = {"reading": _given(times), "device": settings.accelerator, "workers": workers}
    options |= {"name": name, "version": version, "held_out": names_in(held_out)}
    truth = maps or data / "derivatives" if reference is Reference.maps else None
    with shown(progress) as tell:
        words = {"settings": settings, "target": target, "maps": truth, "way": interpolation.value}
        card = make(network, scans, out, progress=tell, **words, **options)
    _say(card)


def _scans(
    folder: Path, subjects: str, sessions: str, out: Path, version: str
) -> Sequence[ScanFiles]:
    """List the scans that are meant; a broken one stops everything: what is learned is one file."""
    from .cohort.dataset import Dataset, Unusable
    from .files import check_writable
    from .training.recipe import training_loop

    check_writable(out)
    if not all(part.isdecimal() for part in version.split(".")):
        raise InputError(f"the version is {version!r}", "Write it like 1.0.0.")
    found = list(Dataset.open(folder, names_in(subjects), names_in(sessions)).scans())
    for one in found:
        if isinstance(one, Unusable):
            raise one.error
    if not found:
        raise InputError("there is no diffusion scan in it", "Check the data set.", file=folder)
    training_loop()  # tells what is not installed, before anything is made
    return found  # type: ignore[return-value]


def _target(scheme: str, voxel: str, snr: str, times: dict[str, float | None]) -> Target:
    from .pretrain import Target, read_scheme
    from .pretrain.target import SNR as usual

    sizes = _numbers(voxel, "--target-voxel", (1, 3))
    edges = None if not sizes else tuple(sizes * 3 if len(sizes) == 1 else sizes)
    levels = _numbers(snr, "--snr", (1, 2)) or list(usual)
    acq = read_scheme(scheme, **times)
    return Target(acq, edges, (levels[0], levels[-1]))  # type: ignore[arg-type]


def _settings(
    preset: Preset, gentle: bool, steps: int | None, seed: int, device: str, threads: int | None
) -> Settings:
    """Put in place what was given."""
    import torch

    from .pretrain.presets import settings_of

    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"the device is {device!r}", "Choose auto, cpu or cuda.")
    there, wanted = torch.cuda.is_available(), preset is Preset.gpu or device == "cuda"
    if wanted and not there:
        raise InputError("there is no CUDA device", "Use --preset cpu, and no --device cuda.")
    if threads is not None:
        torch.set_num_threads(threads)
    which = "cuda" if there and device != "cpu" else "cpu"
    return settings_of(preset.value, gentle, steps=steps, seed=seed, accelerator=which)


def _say(card: Path) -> None:
    """Say what held-out scans thought of it, and where the weights are."""
    told = json.loads(card.read_text(encoding="utf-8"))["training"]["learned"]
    typer.echo(learned(told))
    typer.echo(f"weights: {card.with_suffix('.safetensors')}")


def learned(told: dict[str, Any]) -> str:
    """Put in words what a card says of the training."""
    if "prior" in told:
        return "what reads metrics was taught; what is expected of tissue stays"
    losses = {int(k): v for k, v in told["loss of held-out scans by step"].items()}
    best, last = told["steps"], max(losses)
    if not best:
        return f"held-out scans gained nothing in {last} steps: the prior is what it began with"
    return (
        f"loss of held-out scans: {losses[0]:.3f} before, {losses[best]:.3f} after {best} steps "
        f"(of {last}), which are the weights that count"
    )


def _given(times: dict[str, Any]) -> tuple[tuple[str, float], ...]:
    return tuple((name, value) for name, value in times.items() if value is not None)


def _numbers(text: str, option: str, counts: tuple[int, ...]) -> list[float]:
    try:
        values = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        values = []
        text = text or " "
    if text and len(values) not in counts:
        raise InputError(f"{option} is {text.strip()!r}", "Write numbers with commas between.")
    return values
