from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import psutil
import pytest
from distributed import as_completed

import darts_xr as dx
from darts_xr.cluster import slurm, worker_environment

_ctrl_c = signal.getsignal(signal.SIGINT)
jobqueue = pytest.importorskip("dask_jobqueue")
signal.signal(signal.SIGINT, _ctrl_c)  # its import makes Ctrl-C end the process
DAEMONS = ("munged", "slurmctld", "slurmd")
WHERE = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def _environment() -> tuple[str | None, ...]:
    return tuple(os.environ.get(name) for name in ("OMP_NUM_THREADS", "GDAL_NUM_THREADS", "SLURM_JOB_ID"))


def _eventually(holds: Callable[[], bool], seconds: float = 40) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.2)
    return False


@pytest.fixture
def never_submitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Slurm: what would be asked of it is only noted."""

    async def submit(self: Any, script_filename: str) -> str:
        return "Submitted batch job 1"

    async def cancel(job_id: str | None, command: str) -> None:
        return None

    monkeypatch.setattr(jobqueue.slurm.SLURMJob, "_submit_job", submit)
    monkeypatch.setattr(jobqueue.slurm.SLURMJob, "_close_job", staticmethod(cancel))


def _script(client: Any) -> list[str]:
    return client.cluster.job_script().splitlines()


@pytest.mark.usefixtures("never_submitted")
def test_the_script_of_a_job_with_gpus(tmp_path: Path) -> None:
    with dx.start_cluster(
        "slurm", jobs=2, gpus=2, cores=16, memory="64GiB", walltime="01:00:00", partition="gpu", account="permafrost",
        interface="lo", log_folder=tmp_path / "logs", directives=["--constraint=a100"], prologue=["module load cuda"],
        security=False,
    ) as client:  # fmt: skip
        script = _script(client)
        address = client.scheduler.address
        assert len(client.cluster.worker_spec) == 2
    logs = tmp_path / "logs"
    assert script == [
        "#!/usr/bin/env bash",
        "",
        "#SBATCH -J dask-worker",
        f"#SBATCH -e {logs}/dask-worker-%J.err",
        f"#SBATCH -o {logs}/dask-worker-%J.out",
        "#SBATCH -p gpu",
        "#SBATCH -A permafrost",
        "#SBATCH -n 1",
        "#SBATCH --cpus-per-task=16",
        "#SBATCH --mem=64G",
        "#SBATCH -t 01:00:00",
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        "#SBATCH --gres=gpu:2",
        "#SBATCH --constraint=a100",
        *(f"export {name}={value}" for name, value in worker_environment(2).items()),
        "export DASK_DISTRIBUTED__WORKER__LIFETIME__DURATION=3240s",
        "export DASK_DISTRIBUTED__WORKER__LIFETIME__STAGGER=180s",
        "module load cuda",
        f"{sys.executable} -m dask cuda worker {address} --name dummy-name --nthreads 4 --memory-limit 32.00GiB "
        "--death-timeout 60 --dashboard-address 127.0.0.1:0 --resources GPU=1 --interface lo",
    ]


@pytest.mark.usefixtures("never_submitted")
def test_the_script_of_a_job_without_gpus_takes_its_size_from_dask_settings(tmp_path: Path) -> None:
    with (
        dask.config.set({"jobqueue.slurm.cores": 8, "jobqueue.slurm.memory": "12GiB"}),
        dx.start_cluster("slurm", log_folder=tmp_path, interface="lo", security=False) as client,
    ):
        script = _script(client)
        assert client.scheduler_info(n_workers=-1)["address"].startswith("tcp://127.0.0.1:")
        assert client.dashboard_link.startswith("http://127.0.0.1:")
    assert "#SBATCH --cpus-per-task=8" in script
    assert "#SBATCH -t 00:30:00" in script
    assert not any("gres" in line for line in script)
    assert (
        "export OMP_NUM_THREADS=2" in script
    )  # memory is for four workers, so each has two of the eight cores
    assert script[-1].startswith(f"{sys.executable} -m distributed.cli.dask_worker ")
    assert "--nthreads 1 --memory-limit 3.00GiB --nworkers 4 --nanny" in script[-1]
    assert "GPU" not in script[-1]


@pytest.mark.usefixtures("never_submitted")
def test_jobs_are_encrypted_unless_told_otherwise(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    with dx.start_cluster("slurm", cores=1, memory="3GB", log_folder=tmp_path, interface="lo") as client:
        assert client.scheduler.address.startswith("tls://127.0.0.1:")
        worker = _script(client)[-1]
        assert "--protocol tls://" in worker
        files = [Path(word) for word in worker.split() if word.startswith(str(tmp_path))]
        assert len(files) == 3
        assert all(file.stat().st_mode & 0o077 == 0 for file in files)


@pytest.mark.usefixtures("never_submitted")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"memory": "3GB"}, "needs a size"),
        ({"cores": 1}, "needs a size"),
        ({"cores": 1, "memory": "3GB", "walltime": "an hour"}, "none of Slurm's forms"),
        ({"cores": 8, "memory": "3GB", "gpus": 2, "n_workers": 4}, "one a GPU"),
        ({"cores": 8, "memory": "3GB", "memory_limit": "1GB"}, "memory_limit"),
    ],
)
def test_what_does_not_suit_is_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dx.start_cluster("slurm", log_folder=tmp_path, security=False, **settings)


def test_without_jobqueue_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(ImportError, match=r"darts-xr\[slurm\]"):
        dx.start_cluster("slurm", cores=1, memory="3GB")


def test_ctrl_c_stays_what_it_was() -> None:
    code = (
        "import signal; from darts_xr.cluster.slurm import job_size; before = signal.getsignal(signal.SIGINT); "
        "job_size(1, '1GB'); assert signal.getsignal(signal.SIGINT) is before"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("walltime", "seconds"),
    [
        ("30", 1800),
        ("30:15", 1815),
        ("01:00:00", 3600),
        ("1-12", 129600),
        ("1-12:30", 131400),
        ("2-01:02:03", 176523),
    ],
)
def test_walltimes_are_read_as_slurm_does(walltime: str, seconds: int) -> None:
    assert slurm._seconds(walltime) == seconds


@pytest.mark.parametrize("walltime", [600, 3600, 86400])
def test_workers_end_before_their_job(walltime: int) -> None:
    duration, stagger = (int(value.rstrip("s")) for value in slurm._lifetime(walltime).values())
    assert 0.8 * walltime < duration - stagger
    assert duration + stagger + min(30, walltime / 20) <= walltime


# From here on with Slurm itself, one node on this machine.


@pytest.fixture(scope="module")
def controller() -> Iterator[Path]:
    """A Slurm of one node with four cores and one GPU in name; gives the path of its settings."""
    programs = [shutil.which(name, path=WHERE) for name in (*DAEMONS, "sbatch")]
    if not all(programs):
        pytest.skip("Slurm is not installed (Debian: slurmctld slurmd slurm-client munge)")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # a socket's path must be short
    log = (folder / "daemons.log").open("w")
    running: list[subprocess.Popen[bytes]] = []
    try:
        settings = _settings(folder)
        commands = (
            [programs[0], "--foreground", "--force", *(
                f"--{what}={folder}/munge.{what.partition('-')[0]}"
                for what in ("key-file", "socket", "pid-file", "log-file", "seed-file")
            )],
            [programs[1], "-D", "-f", str(settings)],
            [programs[2], "-D", "-f", str(settings), "-N", "localhost"],
        )  # fmt: skip
        for command in commands:
            running.append(subprocess.Popen(command, stdout=log, stderr=log))
            time.sleep(1)
        ready = ["sinfo", "--noheader", "--format=%t"]
        environment = {**os.environ, "SLURM_CONF": str(settings)}

        def idle() -> bool:
            return (
                subprocess.run(ready, capture_output=True, text=True, env=environment).stdout.strip()
                == "idle"
            )

        if not _eventually(idle, 20):
            pytest.skip(f"Slurm does not start here: {(folder / 'daemons.log').read_text()[-600:]}")
        yield settings
        subprocess.run(["scancel", "--full", "--user", str(os.getuid())], env=environment, check=True)
        assert _eventually(lambda: not _queue(environment), 20)
    finally:
        for daemon in reversed(running):
            daemon.terminate()
        for daemon in running:
            daemon.wait(20)
        log.close()
        shutil.rmtree(folder)


def _settings(folder: Path) -> Path:
    user = psutil.Process().username()
    (folder / "munge.key").touch(mode=0o600)
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "gpu").touch()
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "gres.conf").write_text(f"NodeName=localhost Name=gpu File={folder}/gpu\n")
    port = 20000 + os.getpid() % 10000 * 2
    settings = folder / "slurm.conf"
    settings.write_text(
        f"""ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={port}
SlurmdPort={port + 1}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
MpiDefault=none
GresTypes=gpu
NodeName=localhost NodeAddr=127.0.0.1 CPUs=4 RealMemory=16000 Gres=gpu:1 State=UNKNOWN
PartitionName=test Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""
    )
    return settings


def _queue(environment: dict[str, str] | None = None) -> dict[str, str]:
    answer = subprocess.run(
        ["squeue", "--noheader", "--format=%i %T"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    return dict(line.split() for line in answer.stdout.splitlines())


@pytest.fixture
def one_node(controller: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """Settings for small jobs on the one node, whose replacement is not waited for long."""
    monkeypatch.setenv("SLURM_CONF", str(controller))
    monkeypatch.setattr(slurm, "_RECONNECT_GRACE", 2.0)
    return {
        "cores": 2, "memory": "3GB", "walltime": "00:20:00", "partition": "test", "interface": "lo",
        "log_folder": tmp_path, "security": False,
    }  # fmt: skip


@pytest.fixture
def soon_lost() -> Iterator[None]:
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "1s"}):
        yield


def test_slurm_runs_the_workers_and_closing_ends_the_jobs(one_node: dict[str, Any]) -> None:
    with dx.start_cluster("slurm", jobs=2, **one_node) as client:
        client.wait_for_workers(2, timeout=40)
        found = set(client.run(_environment).values())
        assert {(omp, gdal) for omp, gdal, _ in found} == {("2", "1")}
        assert {job for _, _, job in found} == _queue().keys()
        assert client.submit(sum, (1, 2)).result() == 3
        workers = client.run(os.getpid)
    assert _eventually(lambda: not _queue())
    assert _eventually(lambda: not any(psutil.pid_exists(pid) for pid in workers.values()))


def test_slurm_with_tls_and_two_workers_a_job(one_node: dict[str, Any]) -> None:
    pytest.importorskip("cryptography")
    with dx.start_cluster("slurm", n_workers=2, **{**one_node, "security": None}) as client:
        client.wait_for_workers(2, timeout=40)
        assert all(worker.startswith("tls://") for worker in client.run(os.getpid))
        assert len(_queue()) == 1


@pytest.mark.usefixtures("soon_lost")
@pytest.mark.parametrize("n_workers", [1, 2])
def test_an_ended_job_is_asked_for_again(one_node: dict[str, Any], n_workers: int) -> None:
    with dx.start_cluster("slurm", n_workers=n_workers, **one_node) as client:
        client.wait_for_workers(n_workers, timeout=40)
        (before,) = _queue()
        subprocess.run(["scancel", before], check=True)
        assert _eventually(lambda: bool(_queue().keys() - {before}))
        assert client.submit(os.getenv, "SLURM_JOB_ID").result(timeout=40) != before


@pytest.mark.usefixtures("soon_lost")
def test_a_run_outlives_its_workers(one_node: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    lifetime = {
        f"DASK_DISTRIBUTED__WORKER__LIFETIME__{k}": v for k, v in (("DURATION", "8s"), ("STAGGER", "2s"))
    }
    monkeypatch.setattr(slurm, "_lifetime", lambda walltime: lifetime)
    seen: set[str] = set()
    with dx.start_cluster("slurm", jobs=(1, 2), **one_node) as client:
        squares = {}
        for future, square in as_completed(
            client.map(_slow_square, range(24)), with_results=True, timeout=50
        ):
            squares[future.key] = square
            seen |= _queue().keys()
    assert sorted(squares.values()) == [number**2 for number in range(24)]
    assert len(seen) > 2  # more than ever ran at one time


def _slow_square(number: int) -> int:
    time.sleep(1)
    return number**2


def test_slurm_puts_a_job_back_into_the_queue_and_its_worker_comes_back(one_node: dict[str, Any]) -> None:
    with dx.start_cluster("slurm", **one_node) as client:
        client.wait_for_workers(1, timeout=40)
        (job,) = _queue()
        (first,) = client.run(os.getpid).values()
        subprocess.run(["scontrol", "requeue", job], check=True)
        assert _eventually(lambda: not psutil.pid_exists(first))
        subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=True)
        assert _eventually(lambda: len(client.scheduler_info(n_workers=-1)["workers"]) == 1)
        # The same job, or another where Slurm took longer than the wait for a worker; never both.
        back = client.submit(os.getenv, "SLURM_JOB_ID").result(timeout=30)
        assert _eventually(lambda: list(_queue()) == [back])


def test_slurm_accepts_the_script_of_a_job_with_a_gpu(one_node: dict[str, Any], tmp_path: Path) -> None:
    with dx.start_cluster("slurm", jobs=0, gpus=1, **one_node) as client:
        script = tmp_path / "job.sh"
        script.write_text(client.cluster.job_script())
    answer = subprocess.run(["sbatch", "--test-only", str(script)], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    script.write_text(script.read_text().replace("gpu:1", "gpu:2"))  # there is only one
    assert subprocess.run(["sbatch", "--test-only", str(script)], capture_output=True).returncode != 0
