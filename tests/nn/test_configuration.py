"""Attributes that are plain configuration: dictionaries of any keys, and containers that change."""

import collections
import copy
import enum

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import statelens as sl
from tests.helpers import crossed, written


class Side(enum.Enum):
    LEFT = 1
    RIGHT = 2


def model(table):
    module = sl.nn.Module()
    module.w, module.table = sl.State(jnp.ones(())), table
    return module


TABLES = {
    "mixed": {3: 4, "a": 5},
    "enum": {Side.RIGHT: 1, Side.LEFT: 2},
    "none": {None: 1, "a": 2},
    "classes": {int: 1, float: 2},
    "frozensets": {frozenset({1}): 1, frozenset({"a"}): 2},
    "complex": {1j: 1, 2j: 2},
    "default": collections.defaultdict(list, {3: [4], "a": [5]}),
    "ordered": collections.OrderedDict({3: 4, "a": 5}),
    "nested": [{"x": {1: {2: 3, "b": 4}, "a": 3}}, ({"c": 1, 4: 2},)],
    "set": {3, "a", None},
    "set of enum": {Side.LEFT, Side.RIGHT},
}
USES = {
    "tree_map": lambda m: jax.tree.map(lambda x: x, m),
    "twice": lambda m: jax.tree.map(lambda x: x, jax.tree.map(lambda x: x, m)),
    "deepcopy": copy.deepcopy,
    "jit": lambda m: sl.jit(lambda m: m)(m),
    "jax.jit": lambda m: jax.jit(lambda m: m)(m),
    "set": lambda m: sl.lens("w").set(m, {"w": jnp.zeros(())}),
    "halves": lambda m: sl.combine(*sl.lens("w").partition(m)),
    "grad": lambda m: sl.grad(lambda m: m.w.value, "w")(m),
    "thread": lambda m: sl.thread(lambda m: None)(m)[1],
    "equinox": lambda m: eqx.combine(*eqx.partition(m, eqx.is_array)),
}


@pytest.mark.parametrize(
    ("name", "use"), crossed(TABLES, USES, of_first=["nested"], of_second=["tree_map", "jit"])
)
def test_it_may_have_any_keys(name, use):
    table = TABLES[name]
    again = USES[use](model(table)).table
    assert again == table
    assert type(again) is type(table)
    assert list(again) == list(table) or isinstance(table, set)


@pytest.mark.parametrize("name", TABLES)
def test_a_module_of_any_configuration_is_looked_at_and_run(name):
    module = model(TABLES[name])
    assert written(module.states()) == written(sl.lens("**").paths(module)) == ["w"]
    assert jax.tree.structure(module) == jax.tree.structure(model(copy.deepcopy(TABLES[name])))
    assert "table=" in repr(module)
    assert sl.jit(lambda: module.w.value * len(module.table))() == len(TABLES[name])


def test_another_order_or_class_of_keys_is_another_structure():
    structures = [
        jax.tree.structure(model(table))
        for table in ({3: 1, "a": 2}, {"a": 2, 3: 1}, {3.0: 1, "a": 2}, {3: 1, "a": 2.0})
    ]
    assert len(set(map(id, structures))) == 4
    assert [a == b for a in structures for b in structures].count(True) == 4


def test_states_and_modules_may_be_under_any_keys():
    module = model({3: sl.State(jnp.ones(2)), "a": model({}), Side.LEFT: [sl.State(jnp.ones(1))]})
    assert len(module.states()) == 4
    assert {path[1] for path in module.states() if path[0] == "table"} == {3, "a", Side.LEFT}
    again = jax.tree.map(lambda x: 2 * x, module)
    assert again.table[3].value.tolist() == [2, 2]
    assert again.table["a"].w.value == 2
    module.table[3].value = jnp.zeros(2)
    assert sl.grad(lambda: module.table["a"].w.value ** 2, module.table["a"].w)() == 2


def test_a_table_may_be_set_again():
    module = model({3: sl.State(jnp.ones(2)), "a": 5})
    module.table = {3: sl.State(jnp.ones(2)), "a": 6}
    with pytest.raises(sl.StateTypeError, match="a container of states, which would be dropped"):
        module.table = {3: jnp.ones(2), "a": 6}


# Containers that JAX takes for leaves.


class Stack(list):
    pass


CHANGES = {
    "set": ({1}, lambda x: x.add(2)),
    "bytearray": (bytearray(b"a"), lambda x: x.append(2)),
    "deque": (collections.deque([1]), lambda x: x.append(2)),
    "counter": (collections.Counter("a"), lambda x: x.update("b")),
    "subclass": (Stack([1]), lambda x: x.append(2)),
}


@pytest.mark.parametrize("jit", [jax.jit, sl.jit])
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_in_place_is_seen_in_an_argument(name, jit):
    container, change = CHANGES[name]
    module = model(copy.copy(container))
    f = jit(lambda m: m.w.value * len(m.table))
    assert f(module) == 1
    change(module.table)
    assert f(module) == 2


@pytest.mark.parametrize("name", CHANGES)
def test_what_jax_makes_has_containers_of_its_own(name):
    container, change = CHANGES[name]
    module = model(copy.copy(container))
    leaves, structure = jax.tree.flatten(module)
    one, other = structure.unflatten(leaves), structure.unflatten(leaves)
    change(one.table)
    assert other.table == module.table == container
    assert jax.tree.structure(one) != structure
    assert type(one.table) is type(container)


@pytest.mark.parametrize("make", [sl.State, lambda value: value])
@pytest.mark.parametrize("key", [True, 1.0, 2])
def test_a_key_that_is_changed_in_place_for_one_that_equals_it_is_seen(make, key):
    made = sl.nn.Module()
    made.table = {1: make(jnp.ones(2))}
    # What JAX has made of a module knows what it was made of.
    module = jax.tree.map(lambda leaf: leaf, made)
    assert sl.lens("**").paths(module) == (("table", 1),)
    module.table[key] = module.table.pop(1)
    (path,) = sl.lens("**").paths(module)
    assert [(type(part), part) for part in path] == [(str, "table"), (type(key), key)]
    again = jax.tree.map(lambda leaf: leaf, module)
    assert [(type(part), part) for part in again.table] == [(type(key), key)]


def test_keys_of_numbers_are_no_reason_to_look_into_what_takes_the_place_of_a_leaf():
    made = sl.nn.Module()
    made.table = {1: {2: jnp.ones(1)}, 3: jnp.ones(1)}
    module = jax.tree.map(lambda leaf: {"x": leaf}, made)
    leaves, structure = jax.tree.flatten(module, is_leaf=lambda node: isinstance(node, dict))
    assert structure == jax.tree.structure(made)
    assert [set(leaf) for leaf in leaves] == [{"x"}, {"x"}]


# Arrays under keys that don't sort: a dictionary of arrays alone is behind a state.


def mixed():
    return {1: jnp.ones(2), "a": jnp.ones(2)}


@pytest.mark.parametrize("before", [3, {"a": jnp.ones(2)}, [sl.State(jnp.ones(2))]])
@pytest.mark.parametrize("where", ["", r", that at \[0\]"])
def test_an_attribute_stays_where_a_value_is_refused(before, where):
    module = model(before)
    with pytest.raises(sl.StructureError, match=f"dictionary in the attribute 'table'{where}\n"):
        module.table = [mixed()] if where else mixed()
    assert written(module.states()) == (["table[0]", "w"] if type(before) is list else ["w"])
    assert module.table is before


LOOKS = {
    "states": lambda module: list(module.states()),
    "copy": copy.copy,
    "jit": lambda module: sl.jit(lambda: module.table["a"])(),
    "argument": lambda module: sl.jit(lambda module: module.table["a"])(module),
    "jax.jit": lambda module: jax.jit(lambda module: 1)(module),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_a_key_that_was_added_and_does_not_sort_is_named_with_its_attribute(look):
    module = model({"a": jnp.ones(2)})
    module.table[1] = jnp.ones(2)
    assert "table={'a': f32[2], 1: f32[2]}" in repr(module)
    with pytest.raises(sl.StructureError, match="in the attribute 'table'"):
        look(module)
    module.table = {"a": jnp.ones(2)}
    look(module)


TRACES = {
    "jit": sl.jit,
    "grad": sl.grad,
    "for_loop": lambda fun: lambda x: sl.transform.for_loop(lambda _: fun(x), x),
}


@pytest.mark.parametrize("transform", TRACES.values(), ids=TRACES)
def test_a_key_that_a_trace_adds_is_named_with_its_attribute(transform):
    module = model({"a": jnp.ones(2)})

    def fun(x):
        module.table[1] = x
        return x.sum()

    with pytest.raises(sl.StructureError, match="in the attribute 'table'"):
        transform(fun)(jnp.ones(2))
    assert list(module.table) == ["a"]
