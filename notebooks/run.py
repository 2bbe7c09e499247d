"""Runs notebooks headless and prints what their cells print.

    python notebooks/run.py 01              # the notebook whose name starts with 01
    python notebooks/run.py                 # all of them
    python notebooks/run.py 01 --save       # and keeps the new outputs in the file
    python notebooks/run.py 01 --to folder  # and writes the executed notebook there

Ends with an error as soon as a cell does. The kernel is the Python that runs this file, and
finds the statelens that lies beside this folder, whichever is installed.
"""

import argparse
import os
from pathlib import Path
from typing import Any

import nbformat
from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

FOLDER = Path(__file__).resolve().parent


class ThisPython(KernelSpecManager):
    """Knows one kernel, the running Python's, whatever kernels the machine has registered."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """Returns the kernel of the running Python, for the checkout that this file is of."""
        path = os.pathsep.join(filter(None, [str(FOLDER.parent), os.environ.get("PYTHONPATH")]))
        spec = KernelSpec(resource_dir=RESOURCES, **get_kernel_dict())
        spec.env = {**spec.env, "PYTHONPATH": path}
        return spec


def find(prefixes: list[str]) -> list[Path]:
    """Returns the notebooks whose names start with one of the prefixes; without any, all."""
    notebooks = sorted(FOLDER.glob("*.ipynb"))
    for prefix in prefixes:
        if not any(path.name.startswith(prefix) for path in notebooks):
            names = ", ".join(path.stem for path in notebooks)
            raise SystemExit(f"no notebook starts with {prefix!r}; there are: {names}")
    return [path for path in notebooks if path.name.startswith(tuple(prefixes or [""]))]


def execute(path: Path) -> Any:
    """Returns the notebook with the outputs of a fresh run.

    Raises:
        CellExecutionError: A cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        km=AsyncKernelManager(kernel_spec_manager=ThisPython()),
        resources={"metadata": {"path": str(path.parent)}},
        timeout=600,
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],
    )
    return client.execute()


def texts(cell: Any) -> list[str]:
    """Returns what a cell printed, and the value that it ended with, as text."""
    found = []
    for output in cell.get("outputs", []):
        if output.output_type == "stream" and output.name == "stdout":
            found.append(output.text)
        elif output.output_type == "execute_result":
            found.append(output.data["text/plain"] + "\n")
    return found


def main() -> None:
    """Runs the notebooks that the command line names."""
    parser = argparse.ArgumentParser(description="Runs notebooks headless.")
    parser.add_argument("notebook", nargs="*", help="how the name of a notebook starts")
    parser.add_argument("--save", action="store_true", help="keep the outputs in the notebook")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="write the executed notebook")
    options = parser.parse_args()
    for path in find(options.notebook):
        print(f"# {path.name}", flush=True)
        try:
            executed = execute(path)
        except CellExecutionError as error:
            raise SystemExit(f"{path.name} failed:\n{error}") from None
        for cell in executed.cells:
            print("".join(texts(cell)), end="", flush=True)
        # Which Python it was is of no interest to those who read the file.
        executed.metadata.language_info = {"name": "python"}
        if options.save:
            nbformat.write(executed, path)
        if options.to:
            nbformat.write(executed, options.to / path.name)


if __name__ == "__main__":
    main()
