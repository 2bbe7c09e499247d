"""How much memory saving and loading take beside the tree: one array."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from statelens.checkpoint import Rule, load, save

SIDE, COUNT = 512, 12
ARRAY = SIDE * SIDE * 4
SLACK = ARRAY // 4


def peak(run):
    """The most bytes that were allocated at a time, and what came of the run."""
    tracemalloc.start()
    try:
        result = run()
        return tracemalloc.get_traced_memory()[1], result
    finally:
        tracemalloc.stop()


@pytest.fixture
def tree():
    return {f"a{i}": np.full((SIDE, SIDE), i, np.float32) for i in range(COUNT)}


@pytest.fixture
def file(tmp_path, tree):
    path = tmp_path / "a.safetensors"
    save(path, tree)
    return path


@pytest.mark.parametrize(
    "form", ["as they are", "laid otherwise", "of JAX", "renamed", "by a rule"]
)
def test_saving_takes_no_more_than_an_array(file, tree, form):
    rename = None
    if form == "laid otherwise":
        tree = {name: array.T for name, array in tree.items()}
    elif form == "of JAX":
        tree = jax.tree.map(jnp.asarray, tree)
    elif form == "renamed":
        rename = {"{name}": "b.{name}"}
        tree = {"b": tree}
    elif form == "by a rule":
        rename = Rule("{name}", "{name}", save=lambda a: a + 1, load=lambda a: a - 1)
    bytes_taken, _ = peak(lambda: save(file, tree, rename=rename))
    # What a rule makes takes an array, and so does what it makes of that for the file.
    assert bytes_taken < (2 if form == "by a rule" else 1) * ARRAY + SLACK


def test_loading_takes_no_more_than_the_tree_and_an_array(file, tree):
    shapes = {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in tree.items()}
    bytes_taken, loaded = peak(lambda: load(file, shapes))
    assert bytes_taken < (COUNT + 1) * ARRAY + SLACK
    assert loaded["a3"][0, 0] == 3
    bytes_taken, loaded = peak(lambda: load(file, tree))
    assert bytes_taken < (COUNT + 1) * ARRAY + SLACK


def test_what_does_not_fit_is_found_without_reading_arrays(file, tree):
    like = {**tree, "a0": np.zeros(3, np.float32)}
    bytes_taken, (loaded, report) = peak(lambda: load(file, like, lens="a0", strict=False))
    assert report.mismatched[0].what == "shape"
    assert loaded["a1"] is like["a1"]
    assert bytes_taken < SLACK
