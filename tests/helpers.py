"""What tests of several rooms share: how values are compared, what is counted, small models."""

import contextlib
import functools
import os
import re
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import statelens as sl

REPOSITORY = Path(__file__).parents[1]


def close(ours, theirs, rtol=1e-5, atol=None):
    """Two trees have one structure, dtypes, shapes, and nearly the same numbers."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert jnp.result_type(a) == jnp.result_type(b)
        assert jnp.shape(a) == jnp.shape(b)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol if atol is None else atol)


def written(paths):
    return [sl.path.format(path) for path in paths]


def caret(error):
    """The position in the text that the message points at."""
    lines = str(error.value).splitlines()
    (line,) = [line for line in lines if line.lstrip().startswith("^ ")]
    return line.index("^") - 2


def counted(fun):
    """The function, and a list that grows by one each time its body runs."""
    runs: list[int] = []
    tick = runs.append  # a list that the body closed over would be looked at

    @functools.wraps(fun)
    def run(*args, **kwargs):
        tick(1)
        return fun(*args, **kwargs)

    return run, runs


def operations(lowered):
    return Counter(re.findall(r"= \"?(stablehlo\.\w+)", lowered.as_text()))


def temporary_bytes(fun, *args):
    return jax.jit(fun).lower(*args).compile().memory_analysis().temp_size_in_bytes


def on_four_devices(code):
    """Runs code to its end in a process of its own: devices are asked for before JAX starts."""
    code = textwrap.dedent(code) + '\nprint("done")\n'
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **flags}
    )
    assert run.stdout.endswith("done\n"), run.stderr


def seen_meanwhile(look, run):
    """Lists what another thread sees, again and again, while something runs in this one."""
    stop, seen = threading.Event(), []

    def look_on():
        while not stop.is_set():
            seen.append(look())

    reader = threading.Thread(target=look_on)
    reader.start()
    try:
        run()
    finally:
        stop.set()
        reader.join()
    return seen


@contextlib.contextmanager
def traced_by(trace):
    """Traces this thread, and gives it back to whoever traced it before: a debugger, coverage."""
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


@contextlib.contextmanager
def profiled_by(profile):
    """Profiles this thread, and gives it back to whoever profiled it before."""
    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(before)


class Boom(Exception):
    pass


class Affine(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = sl.ParamState(jnp.full((2, 1), 0.5))
        self.bias = sl.ParamState(jnp.full((1,), 0.25))
        self.calls = sl.State(jnp.zeros((), jnp.int32))

    def __call__(self, x):
        self.calls.value += 1
        return x @ self.weight.value + self.bias.value


class EquinoxAffine(eqx.Module):
    weight: jax.Array
    bias: jax.Array
    activation: object = jnp.tanh


def counter():
    return sl.State(jnp.zeros((), jnp.int32), name="calls")


def crossed(first, second, *, of_first, of_second):
    """Lists pairs of names: some of the first beside all of the second, and the other way round."""
    return [(a, b) for a in first for b in second if a in of_first or b in of_second]
