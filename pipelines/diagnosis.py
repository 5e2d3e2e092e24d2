"""Is this machine fit: versions, GPUs, GDAL, memory, threads, and a short test of the whole flow."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Literal

State = Literal["good", "missing", "bad"]

_CORE = (
    "torch",
    "torchvision",
    "dask",
    "distributed",
    "xarray",
    "numpy",
    "rasterio",
    "odc-stac",
    "geopandas",
)
# What an extra is for, to people who do not know its packages.
_EXTRAS = {
    "gpu": "one worker a GPU",
    "train": "training networks",
    "s3": "reading and writing object stores",
    "zarr": "cubes as Zarr",
    "viz": "maps and progress in notebooks",
    "stackstac": "cubes by stackstac",
    "slurm": "workers as Slurm jobs",
}
_MEMORY = 8 * 2**30  # bytes under which a whole scene of 8000 x 8000 pixels does not fit beside the networks
_DISK = 5 * 2**30


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Parameters
    ----------
    name : str
        What.
    state : {"good", "missing", "bad"}
        "missing": something optional is not there; "bad": the flow does not work, or not well.
    found : str
        What was found.
    remedy : str
        What to do, empty where nothing is to be done.
    """

    name: str
    state: State
    found: str
    remedy: str = ""


def doctor(*, self_test: bool = True) -> list[Check]:
    """Look at this machine and say what is missing, and which line brings it.

    Parameters
    ----------
    self_test : bool, optional
        Also make a small synthetic scene and detect in it, in a temporary folder: some seconds.

    Returns
    -------
    list of Check
        None has the state "bad" where everything works. Nothing raises: what fails is a finding.

    Examples
    --------
    >>> [check.name for check in doctor(self_test=False)][:2]
    ['darts_xr', 'torch']
    """
    steps: list[Callable[[], Iterator[Check]]] = [
        _versions, _extras, _gpus, _gdal, _machine, *([_self_test] if self_test else [])
    ]  # fmt: skip
    found: list[Check] = []
    for step in steps:
        try:
            found += step()
        except Exception as error:  # a broken library may raise anything, and that is what is looked for
            name = step.__name__.strip("_").replace("_", " ")
            found.append(Check(name, "bad", f"{type(error).__name__}: {error}", "install darts-xr anew"))
    return found


def _versions() -> Iterator[Check]:
    """Tell versions of darts_xr and of what it stands on."""
    import darts_xr as dx

    yield Check("darts_xr", "good", f"{dx.__version__}, Python {platform.python_version()}")
    for name in _CORE:
        try:
            yield Check(name, "good", version(name))
        except PackageNotFoundError:
            yield Check(name, "bad", "not installed", f"pip install {name}")


def _extras() -> Iterator[Check]:
    """List packages that only some uses need, by extra."""
    wanted: dict[str, list[str]] = {}
    for line in requires("darts-xr") or []:
        requirement, _, marker = line.partition(";")
        named = re.search(r"extra == ['\"](\w+)['\"]", marker)
        package = re.match(r"[\w.-]+", requirement)
        if named and package and named[1] in _EXTRAS:
            wanted.setdefault(named[1], []).append(package[0])
    for extra, purpose in _EXTRAS.items():
        lacking = [name for name in wanted.get(extra, []) if not _installed(name)]
        if extra == "gpu" and lacking and not shutil.which("nvidia-smi"):
            continue  # of no use here
        if lacking:
            line = f"pip install 'darts-xr[{extra}]'"
            yield Check(f"extra {extra}", "missing", f"{', '.join(lacking)} ({purpose})", line)
        else:
            yield Check(f"extra {extra}", "good", purpose)


def _installed(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


def _gpus() -> Iterator[Check]:
    """Look for GPUs that torch can use."""
    import torch

    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(number)
            yield Check(f"GPU {number}", "good", f"{about.name}, {about.total_memory / 2**30:.0f} GiB")
    elif shutil.which("nvidia-smi"):
        yield Check(
            "GPU", "bad", f"nvidia-smi is here, but torch {torch.__version__} cannot use a GPU",
            "compare the driver (nvidia-smi) with torch's CUDA and install the torch build for it, see pytorch.org",
        )  # fmt: skip
    else:
        yield Check("GPU", "missing", "none; networks run on the CPU")


def _gdal() -> Iterator[Check]:
    """Look at GDAL, its formats and its settings."""
    import rasterio
    from rasterio.env import GDALVersion

    with rasterio.Env() as env:
        drivers = env.drivers()
    release = str(GDALVersion.runtime())
    lacking = [name for name in ("GTiff", "COG") if name not in drivers]
    if lacking:
        yield Check(
            "GDAL", "bad", f"{release} without {', '.join(lacking)}", "pip install --force-reinstall rasterio"
        )
    else:
        yield Check("GDAL", "good", f"{release}, writes cloud-optimised GeoTIFFs")
    data = os.environ.get("PROJ_LIB") or os.environ.get("PROJ_DATA")
    if data:
        yield Check(
            "PROJ", "missing", f"PROJ_LIB or PROJ_DATA points to {data}, perhaps of another installation",
            "unset PROJ_LIB PROJ_DATA, where reprojections fail",
        )  # fmt: skip


def _machine() -> Iterator[Check]:
    """Look at cores, memory, disk and settings of threads."""
    from distributed.system import MEMORY_LIMIT

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Check("cores", "good", str(cores))
    memory = f"{MEMORY_LIMIT / 2**30:.1f} GiB"
    if MEMORY_LIMIT < _MEMORY:
        yield Check("memory", "missing", memory, "use smaller chunks: dx.open_scene(item, chunks=512)")
    else:
        yield Check("memory", "good", memory)
    threads = os.environ.get("OMP_NUM_THREADS")
    if threads is not None and threads.isdecimal() and int(threads) < cores:
        yield Check(
            "threads", "missing", f"OMP_NUM_THREADS={threads} with {cores} cores: networks use {threads}",
            "unset OMP_NUM_THREADS, unless a cluster set it",
        )  # fmt: skip
    place = Path(tempfile.gettempdir())
    free = shutil.disk_usage(place).free
    said = f"{free / 2**30:.1f} GiB free in {place}"
    if free < _DISK:
        yield Check("temporary files", "missing", said, "set TMPDIR to a larger disk")
    else:
        yield Check("temporary files", "good", said)


def _self_test() -> Iterator[Check]:
    """Detect in a small synthetic scene, from files to files."""
    from darts_xr.sample import write_world
    from pipelines.detection import detect
    from pipelines.settings import Settings

    with tempfile.TemporaryDirectory(prefix="darts_xr_doctor_") as place:
        world = write_world(Path(place) / "world", seed=11, scenes=1, size=256)
        began = time.perf_counter()
        run: Any = detect(world.catalog, Settings(out=Path(place) / "run", auxiliary=world.auxiliary))
        seconds = time.perf_counter() - began
    if run.failed:
        yield Check("self-test", "bad", run.failed[0]["reason"], "follow what the reason says")
        return
    pixels = run.done[0]["pixels"]
    yield Check(
        "self-test", "good",
        f"a synthetic scene of {pixels:,} pixels went through the demo networks in {seconds:.1f} s",
    )  # fmt: skip
