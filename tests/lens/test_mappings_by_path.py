"""Mappings by path: a tuple key of a dictionary is a path."""

from collections import OrderedDict

import jax
import jax.numpy as jnp
import optax
import pytest

import statelens as sl
from tests.lens.trees import written
from tests.strategies import same


class Layer(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = sl.ParamState(jnp.ones((2, 2)))
        self.bias = sl.ParamState(jnp.ones(2))


class Model(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = [Layer(), Layer(), Layer()]
        self.head = Layer()


SPECS = [
    "encoder.**",
    "**.weight",
    "encoder[1].bias",
    "encoder[-1].*",
    "encoder[1:].weight",
    "encoder[*].{weight,bias} & ~**.bias",
    "encoder[0] / *",
    "{encoder,head} / **.weight",
    r"re:.*\.bias",
    sl.name == "weight",
    sl.ndim == 2,
    [sl.lens("head") / "bias", "encoder[0].*"],
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_lens_selects_in_values_by_path_what_it_selects_in_the_model(spec):
    model = Model()
    lens = sl.lens(spec)
    values = model.states().values_dict()
    assert lens.paths(values) == tuple(model.states(lens)) == lens.paths(model)
    assert lens.count(values) == lens.count(model)


def test_the_operations_take_a_mapping_by_path():
    values = Model().states().values_dict()
    lens = sl.lens("encoder[-1].**")
    assert lens.get(lens.get(values)) == lens.get(values)
    assert {path for path, marked in lens.mask(values).items() if marked} == {
        ("encoder", 2, "bias"),
        ("encoder", 2, "weight"),
    }
    focus, rest = lens.partition(values)
    assert focus.keys() == rest.keys() == values.keys()
    assert same(sl.combine(focus, rest), values)
    cast = lens.cast(values, jnp.bfloat16)
    assert {path for path, value in cast.items() if value.dtype == jnp.bfloat16} == set(
        lens.paths(values)
    )
    assert sl.lens("head.bias").set(values, {"head.bias": jnp.zeros(2)})["head", "bias"].sum() == 0
    assert sl.lens("head.bias").only(values) is values["head", "bias"]
    assert sl.path.resolve(values, ("encoder", 1, "bias")) is values["encoder", 1, "bias"]


def test_groups_label_values_by_path_for_optax():
    values = Model().states().values_dict()
    groups = sl.groups({"low": "encoder.**", "high": "head.**"})
    optimizer = optax.multi_transform({"low": optax.sgd(0.1), "high": optax.sgd(1.0)}, groups)
    updates, _ = optimizer.update(values, optimizer.init(values))
    assert updates["encoder", 0, "bias"][0] == pytest.approx(-0.1)
    assert updates["head", "bias"][0] == -1


def test_moments_and_norms_are_read_by_path():
    values = Model().states().values_dict()
    moments = optax.adam(0.1).init(values)
    assert (
        sl.lens("[0].mu.encoder[1].weight").only(moments) is moments[0].mu["encoder", 1, "weight"]
    )
    squares = jax.tree.map(jnp.square, sl.lens("head.*").get(values))
    assert sum(x.sum() for x in squares.values()) == 6


def test_keys_that_are_no_tuples_lie_beside_those_by_path():
    x, y = jnp.ones(1), jnp.ones(2)
    tree = OrderedDict([(("a", "b"), x), ("a", {"c": y}), ("d", x)])
    assert written("a.*", tree) == ["a.b", "a.c"]
    assert written("a / c", tree) == ["a.c"]
    assert written(lambda path, unit: path[0] == "d", tree) == ["d"]


def test_two_entries_of_one_path_are_refused():
    x = jnp.ones(1)
    tree = {"a": {("b", "c"): x, ("d",): x, ("b",): {"c": x}}}
    match = r"'a.b.c'\n.* two entries there, \['a'\]\[\('b',\)\]\['c'\] and \['a'\]\[\('b', 'c'\)\]"
    for use in ("paths", "get", "mask", "count"):
        with pytest.raises(sl.StructureError, match=match):
            getattr(sl.lens("**"), use)(tree)
