"""Code that runs on several devices, which a process has to ask for before it starts."""

import os
import subprocess
import sys
import textwrap


def on_four_devices(code):
    """Runs code in a process of its own, on four devices, to its end."""
    code = textwrap.dedent(code) + '\nprint("done")\n'
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **flags}
    )
    assert run.stdout.endswith("done\n"), run.stderr
