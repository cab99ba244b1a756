"""Can this machine run the job: versions, processors, memory, disk, and a cluster that answers?"""

from __future__ import annotations

import os
import platform
import shutil
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

from flts_ray.config import Settings
from flts_ray.doctor.findings import Check, Report

PACKAGE = "flts-ray"
NAMED = ("ray", "torch", "mlflow", "pyarrow")
INSTALL = "pip install --editable . --constraint constraints.txt"
GIB = 2**30
FEW_MEMORY_BYTES, NO_DISK_BYTES, FEW_DISK_BYTES, FEW_SHM_BYTES = 2 * GIB, GIB // 4, 2 * GIB, GIB
CONNECT_S = 3.0


def machine_checks(settings: Settings) -> list[Check]:
    """What to look at, in order."""
    home = Path(settings.run.home).absolute()
    address = settings.run.ray_address or os.environ.get("RAY_ADDRESS", "")
    host = socket.gethostname()
    cluster = (
        Check(name="cluster", place=address, run=_Cluster(address))
        if address
        else Check(name="processors", place=host, run=_Processors(settings))
    )
    return [
        Check(name="versions", place=f"Python {platform.python_version()}", run=check_versions),
        cluster,
        Check(name="memory", place=host, run=_check_memory),
        Check(name="disk", place=str(home), run=_Disk(home)),
    ]


def check_versions(report: Report, requirements: Iterable[str] | None = None) -> None:
    """Hold what is installed against what the package asks for.

    Args:
        report: Told what is missing or of another version.
        requirements: As in package metadata; None: those of this package.
    """
    from packaging.requirements import Requirement
    from packaging.version import Version

    wanted = metadata.requires(PACKAGE) or [] if requirements is None else requirements
    named = {}
    for text in wanted:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            report.trouble(f"{requirement.name} is not installed", INSTALL)
            continue
        if not requirement.specifier.contains(Version(version).public, prereleases=True):
            report.warning(
                f"{requirement.name} {version} is installed, {requirement.specifier} is asked for",
                INSTALL,
            )
        named[requirement.name] = version
    if not report.findings:
        report.ok(", ".join(f"{name} {named[name]}" for name in NAMED if name in named))


@dataclass(frozen=True, slots=True)
class _Processors:
    """Whether the workers of one candidate fit on a cluster of this machine alone."""

    settings: Settings

    def __call__(self, report: Report) -> None:
        training, here = self.settings.training, _usable_cpus()
        cpus = self.settings.run.num_cpus or here
        needed = training.workers * training.cpus_per_worker
        if needed > cpus:
            report.trouble(
                f"{training.workers} workers of {training.cpus_per_worker:g} CPUs each do not fit on {cpus}",
                "lower training.workers or training.cpus_per_worker, or set run.ray_address",
            )
        elif cpus > here:
            report.warning(f"run.num_cpus is {cpus}, this process may use {here}", "lower run.num_cpus")
        else:
            report.ok(f"{cpus} CPUs, {needed:g} for one candidate")
        if training.use_gpu and not _gpus():
            report.trouble("training.use_gpu is set and torch finds no GPU", "unset it, or set run.ray_address")


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


@dataclass(frozen=True, slots=True)
class _Cluster:
    """Whether anything listens where the Ray cluster should be."""

    address: str

    def __call__(self, report: Report) -> None:
        parts = urlsplit(self.address if "://" in self.address else f"//{self.address}")
        try:
            host, port = parts.hostname, parts.port
        except ValueError as error:
            report.trouble(f"the address cannot be read ({error})", "set run.ray_address to host:port")
            return
        if host is None or port is None:
            report.skipped("an address without a port is for Ray to find")
            return
        try:
            socket.create_connection((host, port), timeout=CONNECT_S).close()
        except OSError as error:
            report.trouble(
                f"nobody answers ({error.strerror or error})", "start the cluster, or correct run.ray_address"
            )
        else:
            report.ok("somebody listens")


def _check_memory(report: Report) -> None:
    import psutil

    free = psutil.virtual_memory().available
    if free < FEW_MEMORY_BYTES:
        report.warning(f"{free / GIB:.1f} GiB are free", "Ray and one worker take about 2 GiB")
    shm = shutil.disk_usage("/dev/shm") if Path("/dev/shm").is_dir() else None
    if shm is not None and shm.free < FEW_SHM_BYTES:
        report.warning(
            f"/dev/shm has {shm.free / GIB:.1f} of {shm.total / GIB:.1f} GiB free, so Ray keeps objects on disk",
            "start the container with --shm-size=2g or more",
        )
    if not report.findings:
        shared = "" if shm is None else f", {shm.free / GIB:.1f} GiB of shared memory"
        report.ok(f"{free / GIB:.1f} GiB free{shared}")


@dataclass(frozen=True, slots=True)
class _Disk:
    """Room under the home folder."""

    home: Path

    def __call__(self, report: Report) -> None:
        nearest = next(path for path in (self.home, *self.home.parents) if path.exists())
        free = shutil.disk_usage(nearest).free
        text = f"{free / GIB:.1f} GiB free"
        if free < NO_DISK_BYTES:
            report.trouble(text, "make room, or set run.home to another disk")
        elif free < FEW_DISK_BYTES:
            report.warning(text, "make room, or set run.home to another disk")
        else:
            report.ok(text)
