"""Many jobs on Dask: killed processes, retries, back-pressure, a full disk, clusters."""

import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import bids_data
import pytest

from DMRIMicroLib.cohort import cluster, memory, state
from DMRIMicroLib.cohort.cluster import Place, local_workers
from DMRIMicroLib.cohort.dataset import Dataset
from DMRIMicroLib.cohort.jobs import Outcome
from DMRIMicroLib.cohort.memory import needed_memory, parse_bytes
from DMRIMicroLib.cohort.run import AHEAD, LEAST_AHEAD, few_deaths, run_all
from DMRIMicroLib.cohort.totals import Totals, keep_run
from DMRIMicroLib.errors import InputError

pytest.importorskip("distributed")


@dataclass(frozen=True)
class Stub:
    """A task that leaves a trace of each attempt, and fails as it is told to."""

    key: str
    folder: Path
    fails: int = 0
    how: str = ""
    pause: float = 0.0


def stub_work(task: Stub) -> Outcome:
    with (task.folder / task.key).open("a") as traces:
        traces.write("x")
    time.sleep(task.pause)
    attempt = (task.folder / task.key).stat().st_size
    if attempt <= task.fails:
        if task.how == "die":
            time.sleep(0.3)  # so that the scheduler knows where it is
            os.kill(os.getpid(), signal.SIGKILL)
        if task.how == "raise":
            raise RuntimeError("by accident")
        if task.how == "part":
            failed = {"smt": Outcome("smt", "failed", error="bad")}
            kept = {"noddi": "shells"} if attempt == 1 else {}
            return Outcome(task.key, "partial", error="bad", failures=failed, left_out=kept)
        return Outcome(task.key, "failed", error="bad", full=task.how == "full")
    return Outcome(task.key, "done", seconds=0.01, voxels=10)


@pytest.fixture(scope="module")
def client():
    with few_deaths(1), cluster.opened(Place(workers=2)) as opened:
        yield opened


def attempts(folder):
    return {file.name: file.stat().st_size for file in folder.iterdir()}


def test_every_task_ends_and_a_bad_one_stops_no_other(client, tmp_path):
    tasks = [Stub(f"t{k}", tmp_path) for k in range(20)]
    tasks[3] = Stub("t3", tmp_path, fails=9)
    tasks[4] = Stub("t4", tmp_path, fails=9, how="raise")
    tasks[5] = Stub("t5", tmp_path, fails=1)
    tasks.insert(7, Outcome("broken", "failed", error="no bvec"))
    told = []
    totals = run_all(tasks, client, stub_work, retries=2, ended=lambda o, t: told.append(o.key))
    assert sorted(told) == sorted(task.key for task in tasks)
    assert (totals.done, totals.failed, totals.retried) == (18, 3, 5)
    errors = {o.key: (o.attempts, o.error) for o in totals.errors}
    assert errors["t3"] == (3, "bad")
    assert errors["t4"] == (3, "RuntimeError: by accident")
    assert errors["broken"] == (1, "no bvec")
    assert totals.voxels == 180
    assert totals.workers == 2


def test_what_failed_in_part_is_tried_again_and_told(client, tmp_path):
    tasks = [Stub("p1", tmp_path, 1, "part"), Stub("p9", tmp_path, 9, "part"), Stub("p0", tmp_path)]
    next_ones = []
    words = {"again": lambda task, outcome: next_ones.append(outcome.status) or task}
    totals = run_all(tasks, client, stub_work, retries=1, **words)
    assert (totals.done, totals.partial, totals.failed, totals.ended) == (2, 1, 0, 3)
    assert next_ones == ["partial", "partial"]
    assert [(o.key, o.attempts) for o in totals.errors] == [("p9", 2)]
    # said by the first attempt, which made the rest, and not by the second
    assert sorted(totals.left_out["noddi: shells"]) == ["p1", "p9"]
    kept = json.loads(keep_run(tmp_path, totals).read_text())
    assert (kept["partial_scans"], kept["failed_scans"]) == (["p9"], [])


def test_a_process_that_dies_costs_an_attempt_and_no_other_task(client, tmp_path):
    tasks = [Stub(f"d{k}", tmp_path, fails=1 if k == 2 else 0, how="die") for k in range(8)]
    totals = run_all(tasks, client, stub_work, retries=1)
    assert (totals.done, totals.failed) == (8, 0)
    assert attempts(tmp_path)["d2"] == 2


def test_a_task_that_kills_every_process_is_given_up(client, tmp_path):
    tasks = [Stub("killer", tmp_path, fails=99, how="die"), Stub("other", tmp_path)]
    totals = run_all(tasks, client, stub_work, retries=0)
    assert totals.done == 1
    (error,) = totals.errors
    assert error.key == "killer"
    assert "--memory" in error.fix


def test_the_scheduler_never_knows_many_tasks(client, tmp_path):
    taken, finished = [], []

    def endless():
        for k in range(150):
            taken.append(k)
            assert len(taken) - len(finished) <= LEAST_AHEAD + 1
            yield Stub(f"b{k}", tmp_path)

    totals = run_all(endless(), client, stub_work, ended=lambda o, t: finished.append(o.key))
    assert totals.done == 150
    assert totals.most_ahead == max(LEAST_AHEAD, AHEAD * 2)


def test_a_full_disk_stops_the_handing_out(client, tmp_path):
    tasks = (
        Stub(f"f{k}", tmp_path, fails=9 * (k == 40), how="full", pause=0.3 * (k > 40))
        for k in range(500)
    )
    totals = run_all(tasks, client, stub_work, retries=3)
    assert "disk is full" in totals.stopped
    assert totals.failed == 1
    assert totals.retried == 0
    # those before it, and what the two processes had begun, but not all that was ahead
    assert sum(attempts(tmp_path).values()) < 40 + LEAST_AHEAD // 2
    assert totals.ended <= len(attempts(tmp_path))


def test_a_run_that_is_stopped_lets_go_of_what_waits(client, tmp_path):
    tasks = [Stub(f"s{k}", tmp_path) for k in range(200)]
    seen = []
    totals = run_all(
        tasks,
        client,
        stub_work,
        ended=lambda o, t: seen.append(o.key),
        cancelled=lambda: len(seen) >= 10,
    )
    assert totals.stopped
    assert totals.ended == 10


def test_throughput_tells_what_a_scan_costs_beside_its_work(tmp_path):
    totals = Totals(done=10, seconds=20.0, busy=30.0, workers=2, voxels=1000)
    assert totals.throughput() == {
        "scans_per_hour": 1800.0,
        "voxels_per_second": 50,
        "busy_share": 0.75,
        "overhead_per_scan_s": 1.0,
    }
    assert "scans_per_hour" in keep_run(tmp_path, totals).read_text()
    assert list((tmp_path / state.STATE / state.RUNS).iterdir())


def test_processes_are_as_many_as_memory_and_cores_or_gpus_allow():
    assert local_workers(2e9, 16e9, cores=4) == 4
    assert local_workers(2e9, 6e9, cores=4) == 2
    assert local_workers(2e9, 16e9, cores=16, gpus=2) == 2
    with pytest.raises(InputError, match=r"needs about 20\.0 GB, and 16\.0 GB are free"):
        local_workers(20e9, 16e9, cores=4)
    assert cluster.gpu_of(3, 2) == "cuda:1"
    assert cluster.gpu_of("tcp://somewhere", 2) == cluster.gpu_of(3, 0) == "auto"


def test_the_memory_of_a_process_is_that_of_the_largest_scan(tmp_path):
    bids_data.raw(tmp_path, 1)
    big = bids_data.raw(tmp_path / "big", 2, shape=(40, 40, 20))
    small, large = (needed_memory(list(Dataset.open(f).scans())) for f in (tmp_path, big))
    assert large - memory.LIBRARIES == pytest.approx(memory.SIGNALS * 4 * 40 * 40 * 20 * 35)
    assert small < large
    for text, value in (("8GB", 8e9), ("512 MiB", 2**29), ("2g", 2e9), ("1000", 1000)):
        assert parse_bytes(text) == value
    for text in ("lots", "-3GB", "8 apples", "GB"):
        with pytest.raises(InputError, match="the memory is"):
            parse_bytes(text)


@pytest.mark.parametrize("kind", ["slurm", "pbs"])
def test_batch_systems_get_scripts_that_say_what_was_asked(monkeypatch, kind):
    """Stops before anything is submitted: there is no such batch system here."""
    jobqueue = pytest.importorskip("dask_jobqueue")
    made = []
    name = {"slurm": "SLURMCluster", "pbs": "PBSCluster"}[kind]
    monkeypatch.setattr(getattr(jobqueue, name), "adapt", lambda self, **w: made.append((self, w)))
    place = Place(
        kind,
        workers=50,
        threads=2,
        memory=8e9,
        walltime="01:00:00",
        queue="short",
        account="me",
        options=("--gres=gpu:1",),
    )
    built = cluster.MAKERS[cluster.Kind(kind)](place, 1e9)
    try:
        script = built.job_script()
    finally:
        built.close()
    assert made[0][1] == {"minimum": 0, "maximum": 50}
    assert "01:00:00" in script
    assert "short" in script
    assert "--gres=gpu:1" in script
    assert "--nthreads 1" in script
    with pytest.raises(InputError, match="Say --workers N"):
        cluster.MAKERS[cluster.Kind(kind)](Place(kind), 1e9)


def test_kubernetes_is_asked_for_what_was_said(monkeypatch):
    asked = {}

    class Stand:
        def __init__(self, **words):
            asked.update(words)

        def adapt(self, **words):
            asked.update(words)

    monkeypatch.setitem(sys.modules, "dask_kubernetes.operator", SimpleNamespace(KubeCluster=Stand))
    monkeypatch.setitem(sys.modules, "dask_kubernetes", SimpleNamespace())
    place = Place("kubernetes", workers=9, memory=2**33, image="dmrimicro:1")
    cluster.MAKERS[cluster.Kind.kubernetes](place, 1e9)
    assert asked["resources"]["limits"] == {"memory": "8192Mi", "cpu": "1"}
    assert (asked["image"], asked["maximum"]) == ("dmrimicro:1", 9)
    with pytest.raises(InputError, match="no container image"):
        cluster.MAKERS[cluster.Kind.kubernetes](Place("kubernetes"), 1e9)


def test_what_is_not_installed_or_does_not_answer_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with (
        pytest.raises(InputError, match=r"dmrimicro\[cohort\]"),
        cluster.opened(Place("slurm", workers=1)),
    ):
        pass
    monkeypatch.setattr(cluster, "PATIENCE", 1)
    for address in ("tcp://127.0.0.1:9", "nowhere.json", "slrum"):
        with (
            pytest.raises(InputError, match="no scheduler answers"),
            cluster.opened(Place(address)),
        ):
            pass


def test_a_scheduler_that_runs_is_used_by_its_address(client, tmp_path):
    with cluster.opened(Place(client.scheduler.address)) as second:
        totals = run_all([Stub("one", tmp_path)], second, stub_work)
    assert totals.done == 1
    assert client.nthreads()  # it still runs


def test_dask_is_imported_only_when_it_is_used():
    code = (
        "import sys, DMRIMicroLib.cli, DMRIMicroLib.cohort.cluster, DMRIMicroLib.cohort.run;"
        "sys.exit('dask' in sys.modules or 'distributed' in sys.modules)"
    )
    import subprocess

    from conftest import ROOT

    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
