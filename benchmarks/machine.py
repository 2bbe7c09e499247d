"""What rows come from: the machine and the versions of all that ran."""

import datetime
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

import statelens

PACKAGES = ("jax", "jaxlib", "equinox", "flax", "brainstate", "penzai", "optax")


def describe() -> dict[str, Any]:
    return {
        "date": datetime.datetime.now().isoformat(" ", "minutes"),
        "CPU": _cpu(),
        "cores": os.cpu_count(),
        "device": jax.devices()[0].device_kind,
        "load": round(os.getloadavg()[0], 2),
        "Python": platform.python_version(),
        "statelens": f"{statelens.__version__} ({_commit()})",
        **{package: _version(package) for package in PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """Gives the commit of the library that was imported, if it lies in a repository."""
    folder = Path(statelens.__file__).resolve().parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    return asked.stdout.strip() or "no commit"


def _cpu() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
