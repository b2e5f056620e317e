"""Cohorts: what survives kills, a full disk and bad inputs; overhead, scaling; training by two.

python3 run.py bench cohort [disturbed] [networks] [scaling] [scheduler] [ddp]

The subjects are simulated (fibres in rings, noise of their own) on tiny grids. bids-validator runs
where `bids-validator-deno` is on the path or named by DMRIMICRO_BIDS_VALIDATOR.
"""

from __future__ import annotations

import csv
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import _cohort_trouble as trouble
from _common import HERE, ROOT, Results, rounded

SUBJECTS = 40

SCALING = 24
"""Subjects of the runs with one and two processes."""

NETWORKS = "codebook,pigment,enhance"
"""Methods that are no models."""

STUBS = 10_000
"""Stub tasks on a scheduler of its own."""


def disturbed(results: Results, folder: Path) -> None:
    """Run undisturbed, then with every kind of trouble, and compare."""
    from bids_data import raw

    source, out = raw(folder / "raw", SUBJECTS), folder / "undisturbed"
    setting = trouble.Setting(source, {})
    first = trouble.run(setting.command(out))
    if first["exit"]:
        sys.exit(f"the undisturbed run failed, nothing can be compared with it:\n{first['stderr']}")
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    setting = replace(setting, reference=trouble.contents(out), size=size)

    def put(name: str, value: dict) -> None:
        results.put("disturbed", name, value=value)

    put("undisturbed", trouble.told(first) | {"files": len(setting.reference), "bytes": size})
    again = trouble.run(setting.command(out))
    put("nothing_to_do", trouble.told(again) | trouble.against(out, setting.reference))
    put("kill_a_worker", trouble.kill_a_worker(setting, folder / "worker"))
    put("kill_the_client", trouble.kill_the_client(setting, folder / "client"))
    put("full_disk", trouble.fill_the_disk(setting, folder / "disk"))
    put("corrupt", trouble.corrupt_inputs(setting, folder / "corrupt"))
    words = [sys.executable, "-m", "DMRIMicroLib", "cohort", str(source), str(out), "group"]
    subprocess.run(words, env=trouble.environment(), check=True)
    put("validator", {"raw": trouble.validate(source), "derivatives": trouble.validate(out)})


def networks(results: Results, folder: Path) -> None:
    """Make what networks make, twice, and compare; let BIDS' validator see it."""
    from bids_data import raw

    source, outs = raw(folder / "raw", 2), [folder / "first", folder / "second"]
    for out in outs:
        setting = trouble.Setting(source, {})
        told = trouble.run(setting.command(out, methods=NETWORKS, workers=1))
        if told["exit"]:
            sys.exit(told["stderr"])
    value = trouble.told(told) | trouble.against(outs[1], trouble.contents(outs[0]))
    results.put("networks", value=value | {"validator": trouble.validate(outs[1])})


def scaling(results: Results, folder: Path) -> None:
    """Time subjects without Dask, and with one and two processes once they have warmed up."""
    import torch
    from bids_data import raw

    from DMRIMicroLib.cohort.cluster import Place, opened
    from DMRIMicroLib.cohort.dataset import Dataset
    from DMRIMicroLib.cohort.jobs import Job, Options
    from DMRIMicroLib.cohort.run import run_cohort
    from DMRIMicroLib.cohort.work import run_job

    torch.set_num_threads(1)
    source = raw(folder / "raw", SCALING, shape=(40, 40, 20))
    options = Options(("dti", "noddi", "smt")).settled()
    scans = list(Dataset.open(source).scans())
    run_job(Job(scans[0], options, folder / "warm"))
    started = time.perf_counter()
    for scan in scans:
        run_job(Job(scan, options, folder / "plain"))
    alone = time.perf_counter() - started
    told = {"subjects": SCALING, "without_dask_s": rounded(alone, 3)}
    for workers in (1, 2):
        with opened(Place(workers=workers)) as client:
            warm = [Job(s, options, folder / f"warm{workers}") for s in scans[: 2 * workers]]
            run_cohort(warm, client, folder / f"warm{workers}")
            jobs = (Job(scan, options, folder / f"out{workers}") for scan in scans)
            totals = run_cohort(jobs, client, folder / f"out{workers}")
            told[f"{workers}_workers"] = totals.throughput() | {
                "seconds": rounded(totals.seconds, 3),
                "busy_seconds": rounded(totals.busy, 3),
            }
            again = (Job(scan, options, folder / f"out{workers}") for scan in scans)
            present = run_cohort(again, client, folder / f"out{workers}")
            told[f"{workers}_workers"]["done_before_ms_a_scan"] = rounded(
                1e3 * present.seconds / SCALING, 3
            )
    results.put("scaling", value=told)


def scheduler(results: Results, folder: Path) -> None:
    """Give 10,000 stub tasks to a scheduler: all at once, and as `run_all` does."""
    told = {name: _stubs(name, folder) for name in ("all_at_once", "as_run_all_does")}
    results.put("scheduler", value={"stub_tasks": STUBS, **told})


def _stubs(how: str, folder: Path) -> dict:
    """Measure a scheduler in a process of its own, with one process that works."""
    import psutil
    from distributed import Client, as_completed

    from DMRIMicroLib.cohort.run import run_all

    file = folder / f"{how}.json"
    env = trouble.environment() | {"PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}"}
    dask = [sys.executable, "-m", "distributed.cli.dask_"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": env}
    words = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    server = subprocess.Popen([*dask[:-1], f"{dask[-1]}scheduler", *words], **quiet)
    words = ["--nthreads", "1", "--no-dashboard", "--no-nanny", "--scheduler-file", str(file)]
    words += ["--local-directory", str(folder)]
    worker = subprocess.Popen([*dask[:-1], f"{dask[-1]}worker", *words], **quiet)
    try:
        while not file.exists():
            time.sleep(0.1)
        with Client(scheduler_file=str(file)) as client:
            client.wait_for_workers(1)
            process = psutil.Process(server.pid)
            before, most = process.memory_info().rss, [0]
            cpu = process.cpu_times()

            def look(*_: object) -> None:
                most[0] = max(most[0], process.memory_info().rss)

            started = time.perf_counter()
            tasks = [Stub(f"sub-{k:05d}") for k in range(STUBS)]
            if how == "all_at_once":
                futures = client.map(stub_work, tasks, pure=False)
                for k, _ in enumerate(as_completed(futures)):
                    if k % 100 == 0:
                        look()
                del futures
            else:
                totals = run_all(tasks, client, stub_work, ended=lambda o, t: look())
                assert totals.done == STUBS, totals
            seconds = time.perf_counter() - started
            now = process.cpu_times()
    finally:
        for started_here in (worker, server):
            started_here.terminate()
            started_here.wait()
    return {
        "seconds": rounded(seconds, 3),
        "ms_a_task": rounded(1e3 * seconds / STUBS, 3),
        "scheduler_cpu_s": rounded(now.user + now.system - cpu.user - cpu.system, 3),
        "scheduler_mb_before": rounded(before / 1e6, 3),
        "scheduler_mb_most": rounded(most[0] / 1e6, 3),
    }


class Stub:
    """A task with a name and nothing to do."""

    def __init__(self, key: str) -> None:
        self.key = key


def stub_work(task: Stub):
    """Return at once."""
    from DMRIMicroLib.cohort.jobs import Outcome

    return Outcome(task.key, "done")


def ddp(results: Results, folder: Path) -> None:
    """Train the codebook, tiny, by one process and by two: the loss curves and the weights."""
    curves, weights = {}, {}
    for processes in (1, 2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
        launcher += ["--master-addr", "127.0.0.1", "--master-port", str(port)]
        own = folder / f"by{processes}"
        words = [str(HERE / "_cohort_training.py"), str(folder / "pool"), str(own)]
        env = trouble.environment() | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'Testing'}"}
        if processes == 1:
            subprocess.run([sys.executable, words[0], words[1], "pool"], env=env, check=True)
        subprocess.run([sys.executable, *launcher, *words], env=env, check=True)
        with (own / "log.csv").open() as opened:
            rows = list(csv.DictReader(opened))
        curves[processes] = [[float(row["expected"]), float(row["numbers"])] for row in rows]
        weights[processes] = own / "made.pt"
    results.put("ddp", value=_compared(curves, weights))


def _compared(curves: dict, weights: dict) -> dict:
    import torch

    one, two = (torch.tensor(curves[k], dtype=torch.float64) for k in (1, 2))
    first, second = (torch.load(weights[k]) for k in (1, 2))
    far = max(float((first[k] - second[k]).abs().max()) for k in first if first[k].numel())
    size = max(float(first[k].abs().max()) for k in first if first[k].numel())
    return {
        "steps": len(one),
        "loss_first": one[0, 0].item(),
        "loss_last": one[-1, 0].item(),
        "largest_difference_of_losses": float((one - two).abs().max()),
        "largest_difference_of_weights": rounded(far, 3),
        "largest_weight": rounded(size, 3),
    }


PARTS = {
    "disturbed": disturbed,
    "networks": networks,
    "scaling": scaling,
    "scheduler": scheduler,
    "ddp": ddp,
}


def main() -> None:
    """Run the parts that are named, or all."""
    results = Results("cohort")
    for name in sys.argv[1:] or PARTS:
        folder = Path(tempfile.mkdtemp(prefix="cohort-"))
        try:
            PARTS[name](results, folder)
            results.put("load_at_the_end", name, value=rounded(os.getloadavg()[0], 2))
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
