"""The command line: `dmrimicro info`, `dmrimicro fit`."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from .arguments import (
    BigDelta,
    Bval,
    Bvec,
    Degibbs,
    Denoising,
    Device,
    EchoTime,
    Exclude,
    MapFolder,
    Mask,
    Method,
    ModelFile,
    Noise,
    NoiseFrom,
    Overwrite,
    ScanPath,
    SmallDelta,
    Threads,
    Threshold,
    WriteReport,
    model_names,
    parse_volumes,
)
from .cli_anatomy import anatomy
from .cli_codebook import adapt, codebook
from .cli_cohort import cohort
from .cli_cohort_labels import LabelsCommand
from .cli_enhance import enhance
from .cli_pigment import pigment
from .cli_pretrain import finetune, pretrain
from .cli_simulate import simulate
from .cli_tracts import connectome, planning, profile, seeds, tracts
from .cli_train_rish import train
from .errors import Cancelled, DMRIMicroError, InputError
from .index import check_folder
from .maps import said_once, voxel_remarks
from .scan import Scan
from .table import B0_THRESHOLD
from .terminal import ProgressStyle, console, shown
from .version import __version__

USER_ERROR, INTERNAL_ERROR, INTERRUPTED = 2, 1, 130
"""Exit codes: the input is at fault; we are; Ctrl-C."""

app = typer.Typer(
    name="dmrimicro",
    help="Maps of brain microstructure from any diffusion MRI scan. Research use only.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # which would take units, [mm], for markup
)
state = {"debug": False}


@app.callback(invoke_without_command=True)
def main(
    debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Options before the command."""
    state["debug"] = debug
    if version:
        typer.echo(f"dmrimicro {__version__}")
        raise typer.Exit


@app.command()
def info(
    scan: ScanPath,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    bval: Bval = None,
    bvec: Bvec = None,
    mask: Mask = None,
    b0_threshold: Threshold = B0_THRESHOLD,
    exclude: Exclude = "",
    delta: SmallDelta = None,
    Delta: BigDelta = None,
    TE: EchoTime = None,
) -> None:
    """Say what a scan holds and which models it can identify."""
    from .io import load
    from .models import MODELS

    opened = load(
        scan,
        bval=bval,
        bvec=bvec,
        mask=mask,
        b0_threshold=b0_threshold,
        exclude=parse_volumes(exclude),
        delta=delta,
        Delta=Delta,
        TE=TE,
    )
    facts = describe(opened)
    facts["models"] = {
        name: list(model.missing(opened.acquisition)) for name, model in MODELS.items()
    }
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    shape = " x ".join(map(str, facts["shape"]))
    size = " x ".join(f"{v:.3g}" for v in facts["voxel_size_mm"])
    typer.echo(f"{facts['name']}: {shape} voxels of {size} mm, {facts['volumes']} volumes")
    typer.echo(f"b0: {facts['b0_volumes']} volumes")
    for shell in facts["shells"]:
        typer.echo(
            f"b = {shell['b']:.0f} s/mm2: "
            f"{shell['volumes']} volumes, {shell['directions']} directions"
        )
    snr = "unknown" if facts["snr"] is None else f"{facts['snr']:.0f} (from {facts['snr_method']})"
    typer.echo(f"SNR of b0: {snr}")
    for name, lacks in facts["models"].items():
        typer.echo(
            f"{name}: "
            + ("can be fitted" if not lacks else "cannot be fitted, it needs " + "; ".join(lacks))
        )
    for note in facts["notes"]:
        typer.echo(f"note: {note}")


@app.command()
def fit(
    scan: ScanPath,
    out: MapFolder,
    models: Annotated[str, typer.Option(help="Models, separated by commas, or all.")] = "dti",
    model_file: ModelFile = None,
    bval: Bval = None,
    bvec: Bvec = None,
    mask: Mask = None,
    b0_threshold: Threshold = B0_THRESHOLD,
    exclude: Exclude = "",
    delta: SmallDelta = None,
    Delta: BigDelta = None,
    TE: EchoTime = None,
    b_max: Annotated[
        float | None, typer.Option(help="Leave out volumes above this b [s/mm2].")
    ] = None,
    method: Annotated[
        Method, typer.Option(help="Weighted or ordinary least squares.")
    ] = Method.wls,
    iterations: Annotated[int, typer.Option(help="Reweighted passes of wls.")] = 1,
    likelihood: Annotated[
        Noise, typer.Option(help="Noise in nonlinear models; auto: Rician where it is known.")
    ] = Noise.auto,
    coils: Annotated[
        int, typer.Option(help="Coils in a sum of squares; above 1: noncentral chi.")
    ] = 1,
    noise: NoiseFrom = "b0",
    robust: Annotated[bool, typer.Option(help="Give outlying samples less weight.")] = False,
    uncertainty: Annotated[
        bool, typer.Option(help="Write the standard deviation of every map, too.")
    ] = False,
    denoise: Denoising = None,
    degibbs: Degibbs = False,
    device: Device = "auto",
    threads: Threads = None,
    report: WriteReport = True,
    overwrite: Overwrite = False,
    progress: Annotated[
        ProgressStyle, typer.Option(help="How to show progress.")
    ] = ProgressStyle.bar,
) -> None:
    """Fit models to a scan and write their maps."""
    from .files import check_writable
    from .io import load
    from .masking import brain_mask
    from .models import load_models
    from .preprocess import prepare

    started = time.perf_counter()
    opened = load(
        scan,
        bval=bval,
        bvec=bvec,
        mask=mask,
        b0_threshold=b0_threshold,
        exclude=parse_volumes(exclude),
        delta=delta,
        Delta=Delta,
        TE=TE,
    )
    for file in model_file or []:
        load_models(file)
    check_writable(out)
    check_folder(out, overwrite=overwrite)
    # after the input is known to be good: importing torch takes seconds
    import torch

    from .fitting import fit as fit_scan

    if threads is not None:
        torch.set_num_threads(threads)
    with shown(progress) as tell:
        tell(0.0, "Reading")
        opened = brain_mask(opened)
        share = 0.3 if denoise or degibbs else 0.0
        opened = prepare(
            opened,
            denoise=denoise and denoise.value,
            degibbs=degibbs,
            noise=noise,
            progress=lambda done, text: tell(share * done, text),
        )
        # here and not above, because removing noise changes the scan
        check_folder(out, opened.fingerprint, overwrite=overwrite)
        maps = fit_scan(
            opened,
            model_names(models),
            method=method.value,
            iterations=iterations,
            b_max=b_max,
            likelihood=likelihood.value,
            coils=coils,
            robust=robust,
            uncertainty=uncertainty,
            device=device,
            progress=lambda done, text: tell(share + (0.8 - share) * done, text),
        )
        text = None
        if report:
            from .report import render

            tell(0.8, "Writing the report")
            text = render(opened, maps)
        tell(0.9, "Writing maps")
        index = maps.save(out, overwrite=overwrite, texts={"report.html": text})
        tell(1.0, "Done")
    for note in dict.fromkeys(n for p in maps.provenance.values() for n in p["notes"]):
        console.print(f"note: {note}", style="dim")
    unused = {name: voxel_remarks(name, m["voxels"]) for name, m in maps.provenance.items()}
    for remark in said_once(unused):
        console.print(remark)
    seconds = time.perf_counter() - started
    typer.echo(f"{len(maps)} maps of {', '.join(maps.provenance)} in {seconds:.1f} s: {index}")


@app.command()
def demo(
    out: MapFolder = Path("demo-output"),
) -> None:
    """Fetch a small real scan (17 MB, once), compute the maps of every model and a report."""
    from .io.example import TIMING, fetch

    image, mask = fetch()
    fit(image, out=out, mask=mask, models="all", uncertainty=True, **TIMING)
    typer.echo(f"report: {out / 'report.html'}")


app.command()(codebook)
app.command()(pigment)
app.command()(adapt)
app.command()(enhance)
app.command()(simulate)
for command in (seeds, tracts, profile, connectome, planning):
    app.command()(command)
app.command(cls=LabelsCommand)(cohort)
for command in (pretrain, finetune):
    app.command()(command)
app.add_typer(anatomy, name="anatomy")
app.add_typer(train, name="train")


def describe(scan: Scan) -> dict:
    """Facts of a scan, as JSON values."""
    acq = scan.acquisition
    noise = scan.noise if acq.is_b0.any() else None
    snr = scan.snr if noise is not None else None
    return {
        "name": scan.name,
        "shape": list(scan.shape),
        "voxel_size_mm": [round(v, 4) for v in scan.voxel_size],
        "volumes": len(acq),
        "b0_volumes": int(acq.is_b0.sum()),
        "shells": [{"b": s.b, "volumes": len(s), "directions": s.directions} for s in acq.shells],
        "snr": None if snr is None else round(snr, 2),
        "snr_method": None if noise is None else noise.method,
        "notes": list(scan.notes),
    }


def run() -> None:
    """Entry point: errors in one or two lines, and exit codes."""
    signal.signal(signal.SIGTERM, _stop)  # batch queues end jobs like this
    try:
        app()  # usage errors are shown, and exit, in there
    except Cancelled as stop:
        console.print(str(stop))
        code = INTERRUPTED
    except DMRIMicroError as error:
        fail(error)
        code = USER_ERROR
    except MemoryError:
        fail(InputError("there is not enough memory", "Give a mask, or close other programs."))
        code = USER_ERROR
    except Exception as error:
        fail(error)
        console.print(
            "This is a defect of DMRIMicro; run `dmrimicro --debug ...` again and report it."
        )
        code = INTERNAL_ERROR
    sys.exit(code)


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


def fail(error: Exception) -> None:
    """Print an error, with its traceback if asked for."""
    if state["debug"]:
        console.print_exception()
    name = "" if isinstance(error, DMRIMicroError) else f"{type(error).__name__}: "
    console.print(f"error: {name}{error}", markup=False)
