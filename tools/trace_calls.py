"""Prints how much of the package some calls go through: files, functions, changes of file.

A call that goes through few files can be followed in a debugger. Faces don't count, nor does what
JAX and the user's own functions do. Each call is of new objects, and others like it have been made
before, so that it is neither the first of its process nor a repetition, where that isn't the point.

    python tools/trace_calls.py
"""

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

import statelens as sl

ROOT = Path(sl.__file__).parent


class Calls(NamedTuple):
    """The package's functions that were called, in their order."""

    codes: list[CodeType]

    @property
    def files(self) -> list[str]:
        """The files that the functions lie in, by the order of their first calls."""
        names = dict.fromkeys(code.co_filename for code in self.codes)
        return [Path(name).relative_to(ROOT).as_posix() for name in names]

    @property
    def functions(self) -> int:
        """How many functions were called, each counted once."""
        return len(set(self.codes))

    @property
    def changes(self) -> int:
        """How often a function is called that lies in another file than the one before."""
        names = [code.co_filename for code in self.codes]
        return sum(one != other for one, other in itertools.pairwise(names))


def calls_of(run: Callable[[], Any]) -> Calls:
    """Runs a function and notes what it calls; whoever profiled before does so again."""
    codes: list[CodeType] = []

    def note(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_name != "<module>":
            file = Path(code.co_filename)
            if file.name != "__init__.py" and file.is_relative_to(ROOT):
                codes.append(code)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(before)
    return Calls(codes)


class Layer(sl.nn.Module):
    """A parameter that a call reads, and a counter that it writes."""

    def __init__(self):
        super().__init__()
        self.weight = sl.ParamState(jnp.ones((2, 2)))
        self.calls = sl.State(jnp.zeros((), jnp.int32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Reads the parameter and counts the call."""
        self.calls.value += 1
        return jnp.tanh(x @ self.weight.value)


def measure() -> dict[str, Calls]:
    """Runs each call on new objects; what was called, by the call's name."""
    layer, x, xs = Layer(), jnp.ones(2), jnp.ones((3, 2))
    params = layer.states(sl.ParamState)
    loss = lambda x: jnp.sum(layer(x))  # noqa: E731
    mlp = eqx.nn.MLP(2, 2, 2, 1, key=jax.random.key(0))
    gradient, step = sl.grad(loss, params), sl.jit(loss)
    found = {"eager grad": calls_of(lambda: gradient(x))}
    for number in range(1, 11):
        found[f"jit, call {number}"] = calls_of(lambda: step(x))
    found["partition"] = calls_of(lambda: sl.lens("layers[-1].**").partition(mlp))
    found["vmap"] = calls_of(lambda: sl.transform.vmap(lambda x: layer.weight.value @ x)(xs))
    return found


def main() -> None:
    """Prints the table."""
    measure()
    found = measure()
    print(f"{'':14}{'files':>10}{'functions':>10}{'calls':>10}{'changes':>10}")
    for name in ("eager grad", "jit, call 1", "jit, call 2", "jit, call 10", "partition", "vmap"):
        calls = found[name]
        counts = (len(calls.files), calls.functions, len(calls.codes), calls.changes)
        print(f"{name:14}" + "".join(f"{count:10}" for count in counts))


if __name__ == "__main__":
    main()
