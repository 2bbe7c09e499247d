"""Random stateful programs give what plain JAX gives: outputs, states and the random key."""

import pprint

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl
from tests.oracles.random_programs import NAMES, ByHand, ByStates, make, run

FEW = [pytest.param(range(first, first + 5), id=f"seeds {first} on") for first in range(0, 10, 5)]
MANY = [
    pytest.param(range(first, first + 10), id=f"seeds {first} on", marks=pytest.mark.slow)
    for first in range(10, 310, 10)
]


@pytest.mark.parametrize("seeds", [*FEW, *MANY])
def test_a_program_gives_what_plain_jax_gives(seeds):
    for seed in seeds:
        program = make(seed)
        print(f"seed {seed}:", pprint.pformat(program))
        # In double precision, so that what rounding makes of a branch or a loop stays small.
        with jax.enable_x64(True):
            found, expected = by_states(program, is_compiled=seed % 2), by_hand(program)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-6), found, expected)


def by_states(program, is_compiled):
    machine = ByStates(*start())
    call = sl.jit(lambda x: run(machine, program, x)) if is_compiled else None
    outs = [(call or (lambda x: run(machine, program, x)))(x) for x in (0.5, 1.5)]
    values, key = machine.values()
    return outs, values, jax.random.key_data(key)


def by_hand(program):
    return jax.jit(lambda: threaded(program))()


def threaded(program):
    machine = ByHand(*start())
    outs = [run(machine, program, jnp.array(x)) for x in (0.5, 1.5)]
    values, key = machine.values()
    return outs, values, jax.random.key_data(key)


def start():
    values = {name: jnp.linspace(-1, 1, 2) + number for number, name in enumerate(NAMES)}
    return values, jax.random.key(0)
