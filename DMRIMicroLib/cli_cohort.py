"""The command `dmrimicro cohort`, in the manner of a BIDS App.

K. J. Gorgolewski et al., "BIDS apps", PLOS Comput. Biol. 13 (2017) e1005209.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .arguments import BigDelta, Degibbs, Denoising, Device, EchoTime, ModelFile, SmallDelta
from .errors import InputError
from .table import B0_THRESHOLD
from .terminal import ProgressStyle, console, shown

if TYPE_CHECKING:
    from .cohort.cluster import Place
    from .cohort.dataset import Dataset
    from .cohort.jobs import Job, Options, Outcome
    from .cohort.totals import Totals

SOME_FAILED = 3
"""Exit code where scans failed, or were not reached; all others are done."""

MOST_TOLD = 20
"""Failures that are printed; all are in the files."""


class Level(StrEnum):
    """Levels of a BIDS App."""

    participant = "participant"
    group = "group"


Labels = Annotated[
    list[str] | None,
    typer.Option(help="Participants, with or without sub-; commas, or repeat it. All if left out."),
]
Sessions = Annotated[
    list[str] | None, typer.Option(help="Sessions, with or without ses-; all if left out.")
]


def cohort(
    bids_dir: Annotated[
        Path, typer.Argument(help="Data set: BIDS (raw, QSIPrep or another derivative) or HCP.")
    ],
    out_dir: Annotated[Path, typer.Argument(help="Data set of maps to write.")],
    level: Annotated[Level, typer.Argument(help="participant: maps; group: tables and a page.")],
    methods: Annotated[
        str, typer.Option(help="Models and codebook, separated by commas; all: every model.")
    ] = "dti",
    participant_label: Labels = None,
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
        str, typer.Option(help="Of the codebook: name or .safetensors.")
    ] = "codebook",
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
    from .cohort.cluster import Place, parse_bytes

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
        _group(out_dir, atlas, place, progress)
        return
    from .cohort.dataset import Dataset
    from .cohort.jobs import Options

    data = Dataset.open(bids_dir, _labels(participant_label), _labels(session))
    if out_dir.resolve() == bids_dir.resolve():
        raise InputError("is the input, too", "Give a folder of its own.", file=out_dir)
    reading = {"b0_threshold": b0_threshold, "delta": delta, "Delta": Delta, "TE": TE}
    options = Options(
        methods=tuple(name.strip() for name in methods.split(",") if name.strip()),
        fit={"uncertainty": uncertainty, "robust": robust},
        weights=weights,
        denoise=denoise and denoise.value,
        degibbs=degibbs,
        noise=noise,
        reading={name: value for name, value in reading.items() if value is not None},
        model_files=tuple(str(file.resolve()) for file in model_file or ()),
        device=device,
        threads=threads,
    ).settled()
    if dry_run:
        _tell_what_would_be_done(data, options, out_dir)
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
    from .cohort.cluster import SAMPLE, Kind, gpus, needed_memory, opened
    from .cohort.derivatives import describe
    from .cohort.run import few_deaths, run_cohort

    describe(out, data.folder)
    need = place.memory or needed_memory(data.sample(SAMPLE))
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
                told=lambda outcome, so_far: tell(
                    min(1.0, taken[0] / len(data.participants)), _so_far(so_far)
                ),
            )
        tell(1.0, "Done")
    _sum_up(totals, out)


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


def _tell_what_would_be_done(data: Dataset, options: Options, out: Path) -> None:
    """Say it scan by scan; nothing is written, and no cluster is needed."""
    from .cohort.cluster import SAMPLE, needed_memory
    from .cohort.jobs import Outcome

    count = {"to do": 0, "done": 0, "broken": 0}
    for job in _jobs(data, options, out, False, [0]):
        if isinstance(job, Outcome):
            count["broken"] += 1
            typer.echo(f"{job.key}: cannot be used: {job.error}. {job.fix}")
            continue
        todo = list(job.open_methods())
        count["to do" if todo else "done"] += 1
        typer.echo(f"{job.key}: {', '.join(todo) if todo else 'done'}")
    said = ", ".join(f"{number} {what}" for what, number in count.items())
    gigabytes = needed_memory(data.sample(SAMPLE)) / 1e9
    typer.echo(f"{said}; a process needs about {gigabytes:.1f} GB")


def _group(out: Path, atlas: str, place: Place, progress: ProgressStyle) -> None:
    """Write the tables of what is done; with an atlas, look at the regions of every scan first."""
    from .cohort.group import roi_tasks, rows_of, write_group

    rows_of(out)  # tells where nothing is done, before anything is started
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
                    ended=lambda outcome, so_far: tell(0.5, _so_far(so_far)),
                )
            tell(1.0, "Done")
    page = write_group(out, rois=bool(atlas))
    typer.echo(f"page: {page}")
    if totals is not None and (totals.failed or totals.stopped):
        _errors(totals)
        raise typer.Exit(SOME_FAILED)


def _labels(given: list[str] | None) -> list[str]:
    """Turn "01,02" and repeats into labels."""
    return [part.strip() for text in given or () for part in text.split(",") if part.strip()]


def _so_far(totals: Totals) -> str:
    rate = 60 * totals.done / max(totals.busy / max(1, totals.workers or 1), 1e-9)
    failed = f", {totals.failed} failed" if totals.failed else ""
    before = f", {totals.present} done before" if totals.present else ""
    return f"{totals.done} scans done{before}{failed}; about {rate:.1f} a minute and process"


def _sum_up(totals: Totals, out: Path) -> None:
    """Say what came of the scans; scans that failed end in an exit code of their own."""
    for why, scans in totals.left_out.items():
        some = f"{', '.join(scans[:3])}{', ...' if scans[3:] else ''}"
        console.print(f"left out of {len(scans)} scans, {why} ({some})", style="dim")
    speed = totals.throughput()
    typer.echo(
        f"{totals.done} scans done in {totals.seconds:.0f} s by {totals.workers} processes, "
        f"{speed['scans_per_hour']:.0f} an hour; {totals.present} done before, "
        f"{totals.failed} failed, {totals.retried} tried again: {out}"
    )
    if totals.failed or totals.stopped:
        _errors(totals)
        raise typer.Exit(SOME_FAILED)


def _errors(totals: Totals) -> None:
    for outcome in totals.errors[:MOST_TOLD]:
        where = f"{outcome.file}: " if outcome.file else ""
        console.print(
            f"failed: {outcome.key}: {where}{outcome.error}. {outcome.fix}".strip(), markup=False
        )
    if more := totals.errors[MOST_TOLD:]:
        console.print(f"... and {len(more)} more; the group level lists all")
    if totals.stopped:
        console.print(
            f"No more scans were started: {totals.stopped}. Those that are done stay; mend it and "
            "give the same command again.",
            markup=False,
        )
