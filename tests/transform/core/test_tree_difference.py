"""How errors say what differs between two trees."""

import re
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import pytest

import statelens as sl

X, XS = jnp.ones(2), jnp.ones((3, 2))


class Net(eqx.Module):
    w: Any
    n: int = eqx.field(static=True, default=2)


def other(_):
    return 0


@pytest.mark.parametrize(
    ("before", "after", "match"),
    [
        (eqx.nn.Dropout(0.5), eqx.nn.Dropout(0.7), r"'p' is 0\.7, not 0\.5"),
        (eqx.nn.Dropout(p=1), eqx.nn.Dropout(1.0), r"'p' is 1\.0, not 1"),
        (
            (X, sl.nn.Module()),
            (jnp.ones(3), sl.nn.Module()),
            r"'\[0\]' is float32\[3\], not .*\[2\]",
        ),
        (Net(0.5), Net(jnp.ones(3)), r"'w' is float32\[3\], not 0\.5$"),
        (Net(jnp.ones(3)), Net(0.5), r"'w' is 0\.5, not float32\[3\]$"),
        (Net(0.5), Net(None), r"'w' is None, not 0\.5$"),
        ((X, "a"), (X, X), r"'\[1\]' is float32\[2\], not 'a'$"),
        ((1.0, 2.0), (), "it is an empty tuple, not a tuple of 2"),
        (((),), ([],), r"'\[0\]' is an empty list, not an empty tuple"),
        ((X, None), (X, X), r"'\[1\]' is float32\[2\], not None"),
        ((X, "yes"), (X, "no"), r"'\[1\]' is 'no', not 'yes'"),
        ((X, jnp.cos), (X, other), r"'\[1\]' is a function, not a .*|'\[1\]' is other, not cos"),
        ({"a": X, "b": X}, {"a": X, "c": X}, "it is a dict of a, c, not a dict of a, b"),
        (
            Net(X),
            Net(jnp.ones(3), 3),
            r"Net of w with .*3.*, not with .*2.*; 'w' is float32\[3\], ",
        ),
        (Net({"b": X}), Net({"b": jnp.arange(2)}), r"'w\.b' is int32\[2\], not float32\[2\]"),
        ([X] * 5, [jnp.ones(3)] * 5, r"^(?!.*\[3\]').*'\[2\]' is float32\[3\], .*; and 2 more"),
    ],
)
def test_a_carry_that_changes_is_described_by_what_changes(before, after, match):
    with pytest.raises(sl.StructureError) as caught:
        sl.transform.scan(lambda carry, x: (after, x), before, XS)
    asked, found, remedy = str(caught.value).split("\n")
    assert asked == "asked scan to carry the carry from step to step"
    assert re.search(match, found.removeprefix("after a step "))
    assert remedy.startswith("Instead: ")


def test_branches_are_told_apart_by_what_is_static():
    with pytest.raises(sl.StructureError, match=r"another's: 'p' is 0\.6, not 0\.5\n"):
        sl.transform.cond(True, lambda: eqx.nn.Dropout(0.5), lambda: eqx.nn.Dropout(0.6))


def test_a_vector_of_a_model_is_told_by_paths():
    model = {"layers": [Net(X), Net(X)]}
    loss = lambda model: sum(jnp.sum(layer.w**2) for layer in model["layers"])  # noqa: E731
    vector = {"layers": [Net(X), Net(jnp.ones(3))]}
    message = r"product with a vector\n'layers\[1\]\.w' is float32\[3\], not float32\[2\]\n"
    with pytest.raises(sl.StructureError, match=message):
        sl.transform.hvp(loss, sl.inexact)(vector, model)
