"""The tables of docs/porting_from_brainstate.md say of every name of brainstate what is here."""

import inspect
import re
import warnings

import jax.numpy as jnp
import pytest

import statelens as sl
from tests.helpers import REPOSITORY

TEXT = (REPOSITORY / "docs" / "porting_from_brainstate.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `(\w+)` \| (same|differs|not here) \|(?: (.*))? \|$")

# What has the names of each table, here and there; members of instances too.
HERE = {
    "brainstate": sl,
    "State": sl.State(jnp.zeros(())),
    "nn.Module": sl.nn.Module(),
    "transform": sl.transform,
    "random": sl.random,
}


def read_tables():
    tables = {}
    for section in TEXT.split("\n## ")[1:]:
        title, *lines = section.splitlines()
        rows = [line for line in lines if line.startswith("|")][2:]
        matched = [ROW.match(row) for row in rows]
        assert all(matched), [row for row, match in zip(rows, matched, strict=True) if not match]
        found = [match.groups() for match in matched if match]
        tables[title] = {name: (verdict, note) for name, verdict, note in found}
        assert len(tables[title]) == len(found), "a name is there twice"
    return tables


TABLES = read_tables()


@pytest.fixture(scope="module")
def there():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = pytest.importorskip("brainstate", reason="brainstate isn't installed")
        return {
            "brainstate": peer,
            "State": peer.State(jnp.zeros(())),
            "nn.Module": peer.nn.Module(),
            "transform": peer.transform,
            "random": peer.random,
        }


def public_names(thing):
    return list(getattr(thing, "__all__", ())) or [n for n in dir(thing) if not n.startswith("_")]


def test_there_is_a_table_for_each_place():
    assert TABLES.keys() == HERE.keys()


@pytest.mark.parametrize("place", HERE)
def test_what_is_said_to_be_here_is_here_and_nothing_else(place):
    for name, (verdict, note) in TABLES[place].items():
        assert hasattr(HERE[place], name) == (verdict != "not here"), name
        assert verdict != "differs" or note, f"{name} doesn't say how it differs"


@pytest.mark.parametrize("place", HERE)
def test_every_public_name_of_brainstate_is_in_the_table(there, place):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = public_names(there[place])
    assert list(TABLES[place]) == names


def test_what_is_the_same_takes_the_same_options(there):
    for name, (verdict, _) in TABLES["transform"].items():
        theirs = getattr(there["transform"], name)
        if verdict != "same" or not inspect.isfunction(theirs):
            continue
        ours = inspect.signature(getattr(sl.transform, name)).parameters
        # What each derivative takes is documented, and is no parameter of its own.
        if any(p.kind is p.VAR_KEYWORD for p in ours.values()):
            continue
        # The function itself is passed by position.
        _, *options = inspect.signature(theirs).parameters.values()
        options = [p.name for p in options if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        assert not [option for option in options if option not in ours], name


def test_what_has_to_do_with_keys_takes_the_same_arguments(there):
    for name in ("clone_rng", "default_rng", "get_key", "seed", "seed_context", "set_key"):
        assert TABLES["random"][name][0] != "not here"
        ours, theirs = getattr(sl.random, name), getattr(there["random"], name)
        assert list(inspect.signature(ours).parameters) == list(
            inspect.signature(theirs).parameters
        )


def parameters_of(thing):
    try:
        return list(inspect.signature(thing).parameters.values())
    except (TypeError, ValueError):
        return []


@pytest.mark.parametrize("place", ["State", "nn.Module", "transform", "random"])
def test_a_keyword_that_is_not_here_is_named_in_the_note(there, place):
    # The text says of samplers that `shape=` is another name of `size=`.
    known = {"size", "shape"} if place == "random" else set()
    missing = {}
    for name, (verdict, note) in TABLES[place].items():
        here, theirs = (getattr(thing, name, None) for thing in (HERE[place], there[place]))
        ours = parameters_of(here)
        # What takes keywords of any name declares them elsewhere, or passes them on.
        if verdict == "not here" or not ours or any(p.kind is p.VAR_KEYWORD for p in ours):
            continue
        # The first is what a transform takes, or an array, and is passed by position.
        names = [p.name for p in parameters_of(theirs)[1:] if p.kind not in (2, 4)]
        lost = set(names) - known - {p.name for p in ours}
        missing |= {name: lost} if any(f"`{each}`" not in (note or "") for each in lost) else {}
    assert not missing
