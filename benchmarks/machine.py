"""What rows come from: the machine and the versions of all that ran."""

import datetime
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("statelens", "jax", "jaxlib", "equinox", "flax", "brainstate", "penzai", "optax")


def describe() -> dict[str, Any]:
    versions = {package: _version(package) for package in PACKAGES}
    return {
        "date": datetime.datetime.now().isoformat(" ", "minutes"),
        "CPU": _cpu(),
        "cores": os.cpu_count(),
        "device": jax.devices()[0].device_kind,
        "load": round(os.getloadavg()[0], 2),
        "Python": platform.python_version(),
        **versions,
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cpu() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
