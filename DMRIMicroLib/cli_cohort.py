"""The command `dmrimicro cohort`, in the manner of a BIDS App.

K. J. Gorgolewski et al., "BIDS apps", PLOS Comput. Biol. 13 (2017) e1005209.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .arguments import BigDelta, Degibbs, Denoising, Device, EchoTime, ModelFile, SmallDelta
from .cli_cohort_labels import Level, Participants, Sessions, chosen, labels
from .cli_cohort_said import SOME_FAILED, errors, so_far, sum_up
from .errors import InputError
from .table import B0_THRESHOLD
from .terminal import ProgressStyle, shown

if TYPE_CHECKING:
    from .cohort.cluster import Place
    from .cohort.dataset import Dataset
    from .cohort.jobs import Job, Options, Outcome


def cohort(
    bids_dir: Annotated[
        Path, typer.Argument(help="Data set: BIDS (raw, QSIPrep or another derivative) or HCP.")
    ],
    out_dir: Annotated[Path, typer.Argument(help="Data set of maps to write.")],
    level: Annotated[Level, typer.Argument(help="participant: maps; group: tables and a page.")],
    methods: Annotated[
        str,
        typer.Option(
            help="Models, codebook, pigment, enhance, separated by commas; all: every model."
        ),
    ] = "dti",
    participant_label: Participants = None,
    session: Sessions = None,
    dry_run: Annotated[bool, typer.Option(help="Say what would be done, and stop.")] = False,
    resume: Annotated[
        bool, typer.Option(help="Leave what is done with these inputs and options.")
    ] = True,
    retries: Annotated[int, typer.Option(help="Attempts beyond the first.", min=0)] = 1,
    cluster: Annotated[
        str,
        typer.Option(help="local, slurm, pbs, kubernetes; a scheduler's address or .json file."),
    ] = "local",
    workers: Annotated[
        int | None, typer.Option(help="Processes at most; local: what fits if left out.", min=1)
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="Of each process, like 8GB; estimated if left out.")
    ] = None,
    threads: Annotated[int, typer.Option(help="Of each process.", min=1)] = 1,
    walltime: Annotated[str, typer.Option(help="Of jobs of SLURM and PBS.")] = "04:00:00",
    queue: Annotated[str, typer.Option(help="Partition or queue of SLURM and PBS.")] = "",
    account: Annotated[str, typer.Option(help="Account of SLURM and PBS.")] = "",
    cluster_option: Annotated[
        list[str] | None, typer.Option(help="Line for the head of their scripts; may be repeated.")
    ] = None,
    image: Annotated[str, typer.Option(help="Container image, for kubernetes.")] = "",
    weights: Annotated[
        str, typer.Option(help="Of codebook and pigment: name or .safetensors.")
    ] = "codebook",
    extra: Annotated[
        list[Path] | None, typer.Option(help="codebook: metric made by `adapt`; may be repeated.")
    ] = None,
    preset: Annotated[str, typer.Option(help="pigment: fast, standard or best.")] = "standard",
    pigment_models: Annotated[
        str, typer.Option(help="pigment: models whose metrics are wanted, commas; or all.")
    ] = "dti,dki,noddi",
    enhance_method: Annotated[
        str,
        typer.Option(help="enhance: auto, residual, ldm, cnn, gan, linear or interpolate."),
    ] = "auto",
    enhance_weights: Annotated[
        str | None, typer.Option(help="enhance: name of the method's weights, or .safetensors.")
    ] = None,
    resolution: Annotated[
        str, typer.Option(help="enhance: 7T (voxels of 1.05 mm), keep, or an edge in mm.")
    ] = "7T",
    seed: Annotated[int, typer.Option(help="pigment, enhance: the same gives the same.")] = 0,
    uncertainty: Annotated[bool, typer.Option(help="Standard deviations, too.")] = False,
    robust: Annotated[bool, typer.Option(help="Give outlying samples less weight.")] = False,
    model_file: ModelFile = None,
    b0_threshold: Annotated[
        float, typer.Option(help="Volumes with b up to this count as b0 [s/mm2].")
    ] = B0_THRESHOLD,
    delta: SmallDelta = None,
    Delta: BigDelta = None,
    TE: EchoTime = None,
    noise: Annotated[str, typer.Option(help="Noise from: b0, pca, or a number.")] = "b0",
    denoise: Denoising = None,
    degibbs: Degibbs = False,
    device: Device = "auto",
    atlas: Annotated[
        str,
        typer.Option(
            help="group: image of labels in the scans' space, for statistics of regions; "
            "{subject} and {session} may stand in it."
        ),
    ] = "",
    progress: Annotated[
        ProgressStyle, typer.Option(help="How to show progress.")
    ] = ProgressStyle.bar,
) -> None:
    """Map every scan of a data set, on this machine or on a cluster; or sum a data set up."""
    from .cohort.cluster import Place
    from .cohort.memory import parse_bytes

    place = Place(
        cluster=cluster,
        workers=workers,
        threads=threads,
        memory=None if memory is None else parse_bytes(memory),
        walltime=walltime,
        queue=queue,
        account=account,
        options=tuple(cluster_option or ()),
        image=image,
    )
    if level is Level.group:
        if participant_label or session:
            raise InputError(
                "the group level takes every scan that is done there",
                "Leave --participant-label and --session out.",
            )
        _group(out_dir, atlas, place, progress, dry_run)
        return
    from .cohort.dataset import Dataset
    from .cohort.jobs import Options

    data = Dataset.open(
        bids_dir, chosen(participant_label, "participant"), chosen(session, "session")
    )
    data.check()
    if out_dir.resolve() == bids_dir.resolve():
        raise InputError("is the input, too", "Give a folder of its own.", file=out_dir)
    reading = {"b0_threshold": b0_threshold, "delta": delta, "Delta": Delta, "TE": TE}
    enhancing = {"method": enhance_method, "resolution": resolution}
    options = Options(
        methods=tuple(labels([methods])),
        fit={"uncertainty": uncertainty, "robust": robust},
        weights=_found(weights),
        extra=tuple(str(file.resolve()) for file in extra or ()),
        pigment={"models": labels([pigment_models]), "preset": preset, "seed": seed},
        enhance={
            **enhancing,
            "weights": enhance_weights and _found(enhance_weights),
            "seed": seed,
        },
        denoise=denoise and denoise.value,
        degibbs=degibbs,
        noise=noise,
        reading={name: value for name, value in reading.items() if value is not None},
        model_files=tuple(str(file.resolve()) for file in model_file or ()),
        device=device,
        threads=threads,
    ).settled()
    if dry_run:
        _tell_what_would_be_done(data, options, out_dir, not resume)
        return
    _participants(data, options, out_dir, place, retries, not resume, progress)


def _participants(
    data: Dataset,
    options: Options,
    out: Path,
    place: Place,
    retries: int,
    anew: bool,
    progress: ProgressStyle,
) -> None:
    """Run all jobs, and say what came of them."""
    from .cohort.cluster import Kind, gpus, opened
    from .cohort.derivatives import describe
    from .cohort.memory import SAMPLE, needed_memory
    from .cohort.run import few_deaths, run_cohort

    describe(out, data.folder)
    need = place.memory or needed_memory(data.sample(SAMPLE), options)
    taken = [0]
    with shown(progress) as tell, few_deaths(retries):
        tell(0.0, "Starting processes")
        with opened(place, need) as client:
            totals = run_cohort(
                _jobs(data, options, out, anew, taken),
                client,
                out,
                retries=retries,
                gpus=gpus() if place.cluster == Kind.local else 0,
                told=lambda outcome, totals: tell(
                    min(1.0, taken[0] / len(data.participants)), so_far(totals)
                ),
            )
        tell(1.0, "Done")
    sum_up(totals, out)


def _jobs(
    data: Dataset, options: Options, out: Path, anew: bool, taken: list[int]
) -> Iterator[Job | Outcome]:
    """Yield what is to be done; `taken` counts the participants."""
    from .cohort.dataset import Unusable
    from .cohort.jobs import Job, Outcome

    subject = None
    for one in data.scans():
        if isinstance(one, Unusable):
            yield Outcome.failed(one.key, one.error)
            continue
        taken[0] += one.subject != subject
        subject = one.subject
        yield Job(one, options, out, anew)


def _tell_what_would_be_done(data: Dataset, options: Options, out: Path, anew: bool) -> None:
    """Say it scan by scan; nothing is written, and no cluster is needed."""
    from .cohort.jobs import Outcome
    from .cohort.memory import SAMPLE, needed_memory

    count = {"to do": 0, "done": 0, "broken": 0}
    for job in _jobs(data, options, out, anew, [0]):
        try:
            todo = [] if isinstance(job, Outcome) else list(job.open_methods())
        except InputError as error:
            job = Outcome.failed(job.key, error)
        if isinstance(job, Outcome):
            count["broken"] += 1
            typer.echo(f"{job.key}: cannot be used: {job.error}. {job.fix}")
            continue
        count["to do" if todo else "done"] += 1
        typer.echo(f"{job.key}: {', '.join(todo) if todo else 'done'}")
    said = ", ".join(f"{number} {what}" for what, number in count.items())
    gigabytes = needed_memory(data.sample(SAMPLE), options) / 1e9
    typer.echo(f"{said}; a process needs about {gigabytes:.1f} GB")


def _group(out: Path, atlas: str, place: Place, progress: ProgressStyle, dry_run: bool) -> None:
    """Write the tables of what is done; with an atlas, look at the regions of every scan first."""
    from .cohort.group import GROUP, roi_tasks, rows_of, write_group

    scans = len(rows_of(out))  # tells where nothing is done, before anything is started
    if dry_run:
        typer.echo(f"tables and page of {scans} scans would be written: {out / GROUP}")
        return
    totals = None
    if atlas:
        from .cohort.cluster import opened
        from .cohort.rois import run_rois
        from .cohort.run import run_all

        with shown(progress) as tell:
            tell(0.0, "Starting processes")
            with opened(place) as client:
                totals = run_all(
                    roi_tasks(out, atlas),
                    client,
                    run_rois,
                    ended=lambda outcome, totals: tell(0.5, so_far(totals)),
                )
            tell(1.0, "Done")
    page = write_group(out, rois=bool(atlas))
    typer.echo(f"page: {page}")
    if totals is not None and (totals.errors or totals.stopped):
        errors(totals)
        raise typer.Exit(SOME_FAILED)


def _found(weights: str) -> str:
    """Return a file by its whole path: processes on other machines start in other folders."""
    return str(Path(weights).resolve()) if Path(weights).is_file() else weights
