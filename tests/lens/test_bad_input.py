"""What is wrong in an operation of a lens is said by path, and changes nothing."""

import jax.numpy as jnp
import pytest

import statelens as sl
from tests.transform.bad_input import B, C, D, E, Net, Rows, X, check_refused

row = Rows()
PATH, PATTERN, FROZEN = sl.PathError, sl.PatternError, sl.FrozenTreeError
OTHER = jnp.ones(3)


def scale(n):
    """Gives the focus of a lens on another shape, as an optimiser of another model would."""
    return sl.partition(sl.lens("scale").set(n, {"scale": OTHER}, replace=True), "scale")[0]


# Making a lens.

row("lens: a text", lambda n: sl.lens("a..b"), PATTERN, r"a\.\.b\n +\^ expected a name, not '\.'")
row("lens: a number", lambda n: sl.lens(3), B, r"asked for a lens of int: 3")
row("lens: an array", lambda n: sl.lens(X), B, r"asked for a lens of .*Array")
row("lens: a tree", lambda n: sl.lens(n), B, r"asked for a lens of Net")
row("lens: a state", lambda n: sl.lens(n.calls), E, r"a lens of State\(.*'calls'\).*grad_states=")
row("lens: and", lambda n: sl.lens("a") and "b", B, r"whether lens\('a'\) is true.*& for 'and'")
row("lens: & 3", lambda n: sl.lens("a") & 3, B, r"asked for a lens of int: 3")
row("lens: a part", lambda n: sl.lens("scale")["a"], C, r"a part of an array by the index 'a'")
row(
    "lens: no such part",
    lambda n: sl.lens("scale")[5].get(n),
    C,
    r"asked for the part \[5\] of 'scale'\nits shape is \(2,\)",
)
row(
    "lens: a predicate of three",
    lambda n: sl.lens(lambda a, b, c: True).get(n),
    TypeError,
    r"missing 1 required positional argument: 'c'",
)
row(
    "lens: booleans of another tree",
    lambda n: sl.lens({"a": True}).get(n),
    D,
    r"asked for the units under a tree of booleans\nit has the path 'a'",
)
row("at: a path", lambda n: sl.at("scale"), B, r"asked at for accessor='scale'\nthat is a str")
row("at: no attribute", lambda n: sl.at(lambda m: m.scael).get(n), D, r"no attribute 'scael'")
row("at: a number", lambda n: sl.at(lambda m: 3).get(n), D, r"\[3\], which is no part of the tree")
row("tagged: a number", lambda n: sl.tagged(3), B, r"with the tag 3\nthat is a int, and tags are")
row("dtype: no dtype", lambda n: sl.dtype == "floaty", B, r"dtype='floaty'\nthat names no dtype")
row("ndim: a truth", lambda n: bool(sl.ndim), sl.StateLensError, r"asked .*ndim.*true")


# Operations.

for n in ("get", "only", "partition", "mask", "paths", "count", "nbytes", "bind", "stop_gradient"):
    row(
        f"{n}: nothing matches",
        lambda net, n=n: getattr(sl.lens("scael"), n)(net),
        PATH,
        rf"asked (a )?{n} for 'scael', which matches nothing\nthe closest paths are 'scale'",
    )
row(
    "get: an array for a tree",
    lambda n: sl.lens("scale").get(X),
    PATH,
    r"asked get for 'scale'.*\nthe tree is an array, which has no paths inside",
)
row(
    "only: several",
    lambda n: sl.inexact.only(n),
    D,
    r"asked for the only unit of .*\nit selects 3: 'layer\.weight'",
)
row(
    "mask: a part",
    lambda n: sl.lens("scale")[:1].mask(n),
    D,
    r"asked for a mask of .*\nonly the part \[:1\] of 'scale'",
)
row(
    "bind: an array",
    lambda n: sl.lens("scale").bind(n),
    E,
    r"asked for the cell at 'scale'\nthere is an array in an immutable tree",
)
row(
    "partition: tree and lens in the other order",
    lambda n: sl.partition("scale", n),
    B,
    r"asked for a lens of Net",
)
SETS = {
    "shape": ({"scale": OTHER}, C, r"at 'scale'\nits shape is \(3,\).*\(2,\).*replace=True"),
    "dtype": ({"scale": jnp.arange(2)}, C, r"at 'scale'\nits dtype is int32, .* is float32"),
    "None": ({"scale": None}, C, r"at 'scale'\nits structure is NoneType, .* there is array\n"),
    "text": ({"scale": "a"}, C, r"at 'scale'\nits structure is str, .* there is array\n"),
    "an array": (X, B, r"set what lens\('scale'\) selects\nthere is an array for them, without"),
    "another path": ({"calls": 1}, PATH, r"set 'calls', which .*\nthe closest .* selects: scale"),
    "no value": ({}, PATH, r"asked to set what .*\nthere is no value for 'scale'"),
    "a number for a path": ({3: X}, PATH, r"asked to set or get the path 3\nthat is a int"),
    "a text that is no path": ({"a..b": X}, PATTERN, r"could not read the path"),
}
for n, (values, error, match) in SETS.items():
    row(f"set: {n}", lambda net, v=values: sl.lens("scale").set(net, v), error, match)
row(
    "set: a part of another shape",
    lambda n: sl.lens("scale")[:1].set(n, {"scale": X}),
    C,
    r"at 'scale'\nits shape is \(2,\), .* is \(1,\)",
)
row(
    "set: the value of a state of another shape",
    lambda n: sl.lens("calls").set(n, {"calls": OTHER}),
    C,
    r"at 'calls'\nits shape is \(3,\), .* is \(\)",
)
UPDATES = {
    "no function": (3, B, r"asked update for function=3\nthat is a int, not a function"),
    "shape": (lambda x: x[:1], C, r"at 'scale'\nits shape is \(1,\)"),
    "None": (lambda x: None, C, r"at 'scale'\nits structure is NoneType"),
    "an error": (lambda x: x @ OTHER, TypeError, r"got \(2,\) and \(3,\)"),
}
for n, (function, error, match) in UPDATES.items():
    row(f"update: {n}", lambda net, f=function: sl.lens("scale").update(net, f), error, match)
row(
    "update: a path for a function of one",
    lambda n: sl.lens("scale").update(n, lambda x: x, with_path=True),
    TypeError,
    r"takes 1 positional argument but 2 were given",
)
row(
    "cast: no dtype",
    lambda n: sl.lens("scale").cast(n, "floaty"),
    B,
    r"asked cast for dtype='floaty'\nthat names no dtype",
)
STEPS = {
    "of another structure": (
        lambda n: {"scale": X},
        r"apply updates to lens\('scale'\)\n.*they differ at 'layer\.weight'",
    ),
    "an array": (lambda n: X, r"apply updates to lens\('scale'\)\n.*only one of them has"),
    "of another shape": (scale, r"updates to 'scale'\nit has shape \(2,\), and its update \(3,\)"),
    "complex": (
        lambda n: sl.lens("scale").update(n, lambda x: 1j * x, replace=True),
        r"updates to 'scale'\nit has dtype float32, and its update complex64",
    ),
    "none": (
        lambda n: sl.partition(n, "layer.*")[0],
        r"apply updates to 'scale'\nthere is no update for it",
    ),
    "for more": (lambda n: n, r"and not to 'layer\.weight'\nthere is an update for that"),
}
for n, (updates, match) in STEPS.items():
    row(
        f"apply_updates: {n}",
        lambda net, updates=updates: sl.lens("scale").apply_updates(net, updates(net)),
        C,
        # No option that it hasn't.
        match + r"(?!.*replace=True)",
    )


# Halves, groups and ties.

row("combine: nothing", lambda n: sl.combine(), C, r"asked to combine halves\nnone were given")
row(
    "combine: halves of other trees",
    lambda n: sl.combine(sl.partition(n, "scale")[0], {"a": X}),
    C,
    r"asked to combine halves of a tree\nthey differ at 'layer\.weight'",
)
row(
    "combine: the tree twice",
    lambda n: sl.combine(n, n),
    C,
    r"asked to combine halves of a tree\n2 of them have a leaf at 'layer\.weight'",
)
row(
    "combine: a part of another shape",
    lambda n: sl.combine({"w": OTHER}, sl.lens("w")[:1].partition({"w": X})[1]),
    C,
    r"asked to put a part in 'w'\nit is float32\[3\], and its place \[:1\] is float32\[1\]",
)
GROUPS = {
    "a list": (["scale"], B, r"asked for groups=\['scale'\]\nthat is a list, without names"),
    "a number": ({"a": 3}, B, r"asked for a lens of int: 3"),
    "none": ({}, D, r"'layer\.weight' is in no group, nor are 3 others"),
    "a leaf in none": ({"a": "scale"}, D, r"'layer\.weight' is in no group, nor are 2 others"),
    "a leaf in two": ({"a": ..., "b": "scale"}, D, r"'scale' is in the group 'a' and in 'b'"),
    "nothing matches": ({"a": "scael", "b": ...}, PATH, r"asked the group 'a' for 'scael'"),
}
for n, (lenses, error, match) in GROUPS.items():
    row(f"groups: {n}", lambda net, lenses=lenses: sl.groups(lenses)(net), error, match)
row(
    "groups: a group in the shadow of others",
    lambda n: sl.groups({"a": ..., "b": "scale"}, first_match=True)(n),
    D,
    r"asked for the group 'b'\nit is shadowed: .*'scale' first",
)
row(
    "groups: no such name",
    lambda n: sl.groups({"a": ...})["b"],
    PATH,
    r"asked for the group 'b'\nthe groups are 'a'",
)
row(
    "groups: halves, and a leaf in none",
    lambda n: sl.groups({"a": "scale"}).partition(n),
    D,
    r"'layer\.weight' is in no group",
)
TIES = {
    "nothing matches": ("scael", "scale", PATH, r"asked tie for 'scael', which matches nothing"),
    "two to one": ("layer.*", "scale", D, r"asked to tie .*\n2 places are to be tied to 1 other"),
    "one to itself": ("scale", "scale", D, r"asked to tie .*of which 1 are the same"),
    "shape": ("layer.weight", "scale", C, r"'scale'\nthey are float32\[2, 2\] and float32\[2\]"),
    "a state": ("calls", "scale", D, r"asked to tie 'calls'\nthat is a State"),
    "a part": (sl.lens("scale")[:1], "layer.bias", D, r"tie 'scale'\nonly the part \[:1\]"),
}
for n, (to, source, error, match) in TIES.items():
    row(f"tie: {n}", lambda net, to=to, s=source: sl.tie(net, to, s), error, match)


def tied(n):
    return sl.tie(n, "scale", "layer.bias")


row(
    "tie: an attribute that is set",
    lambda n: setattr(tied(n), "scale", X),
    FROZEN,
    r"asked to set the attribute 'scale' of a tied tree",
)
row("tie: no attribute", lambda n: tied(n).scael, AttributeError, r"no attribute 'scael'")
row("tie: an index", lambda n: tied(n)[0], TypeError, r"'Net' object is not subscriptable")
row("tie: a length", lambda n: len(tied(n)), TypeError, r"'Net' has no len\(\)")
row("tie: a loop", lambda n: list(tied(n)), TypeError, r"'Net' object is not iterable")


# A bound lens.


def bound(n):
    return sl.lens("calls").bind(n)


ASSIGNED = {
    "shape": ({"calls": jnp.arange(3)}, C, r"at 'calls'\nits shape is \(3,\)"),
    "dtype": ({"calls": jnp.ones(())}, C, r"at 'calls'\nits dtype is float32, .* is int32"),
    "another path": ({"call": 1}, PATH, r"the state at 'call', which isn't there\n.* calls\n"),
    "no path": ({"x.y": 1}, PATH, r"at 'x\.y', which isn't there\nthe paths are calls\n"),
    "an array": (X, B, r"assign values to states\nthere is an array for them, without paths"),
    "twice": ({"calls": 1, ("calls",): 2}, PATH, r"'calls'\nthere are two values for it"),
}
for n, (values, error, match) in ASSIGNED.items():
    row(f"assign: {n}", lambda net, v=values: bound(net).assign(v), error, match)
row(
    "assign: a missing path",
    lambda n: bound(n).assign({}, strict=True),
    PATH,
    r"asked to assign or update each state\nthere is none for 'calls'",
)
row("assign: an item", lambda n: bound(n).__setitem__("calls", X), C, r"its shape is \(2,\)")
row("bound cast: no dtype", lambda n: bound(n).cast("floaty"), B, r"asked cast for dtype='floaty'")
row("bound update: no function", lambda n: bound(n).update(3), B, r"asked update for function=3")
row("bound update: shape", lambda n: bound(n).update(lambda v: X), C, r"its shape is \(2,\)")
row(
    "bound apply_updates: a list",
    lambda n: bound(n).apply_updates([1]),
    B,
    r"asked to apply updates to states\nthere is a list for them, without paths",
)
row(
    "bound apply_updates: shape",
    lambda n: bound(n).apply_updates({"calls": jnp.arange(3)}),
    C,
    r"asked to apply updates to 'calls'\nit has shape \(\), and its update \(3,\)\n(?!.*replace)",
)


# Paths.

row("parse: a text", lambda n: sl.path.parse("a..b"), PATTERN, r"could not read the path")
row("parse: a number", lambda n: sl.path.parse(3), PATH, r"asked to read the path 3\nthat is a int")
row("resolve: a text", lambda n: sl.path.resolve(n, "scale"), PATH, r"resolve the path 'scale'")
row(
    "resolve: no such path",
    lambda n: sl.path.resolve(n, ("scael",)),
    PATH,
    r"asked for the path 'scael'\nthe tree is a Net without 'scael'",
)


@pytest.mark.parametrize(("call", "error", "match"), row)
def test_refused(call, error, match):
    check_refused(call, error, match, Net)


def test_rows_have_names_of_their_own():
    names = [each.id for each in row]
    assert len(set(names)) == len(names)
