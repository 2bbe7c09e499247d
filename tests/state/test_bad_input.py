"""What is wrong in a use of states, and of functions made pure, is said and changes nothing."""

import jax
import numpy as np
import pytest

import statelens as sl
from tests.transform.bad_input import A, B, C, D, E, Net, Rows, X, check_refused, loss, touch

row = Rows()
LEAK = sl.TracerLeakError


async def later(*args):
    """Would read and write states when the call is over."""


# thread.

row("thread: no function", lambda n: sl.thread(3), B, r"asked thread for fun=3\nthat is a int")
row(
    "thread: no tree",
    lambda n: sl.thread(touch)(),
    A,
    r"asked to thread the states of a tree through 'touch'\nthe call has no positional argument",
)
row("thread: the tree by its name", lambda n: sl.thread(touch)(net=n), A, r"no positional argument")
row(
    "thread: has_aux without aux",
    lambda n: sl.thread(touch, has_aux=True)(n),
    B,
    r"asked for has_aux=True of 'touch'\nit returned an array, not a pair",
)
row("thread: a coroutine", lambda n: sl.thread(later)(n), B, r"run later.*\nit returned a corouti")
row(
    "thread: a state for a value",
    lambda n: sl.thread(lambda m: setattr(m.calls, "value", n.calls))(n),
    E,
    r"asked for a State of State\(.*'calls'\)",
)
row(
    "thread: the tree of another function",
    lambda n: sl.thread(loss)({"scael": X}),
    AttributeError,
    r"'dict' object has no attribute 'scale'",
)


# functionalize.

GIVEN = {
    "a lens": (sl.lens("calls"), r"states=lens\('calls'\)\nthat is a Lens, .*lens\.bind\(model\)"),
    "a text": ("calls", r"states='calls'\nthat is a str, not a state\n.*lens\.bind\(model\)"),
    "None": (None, r"states=None\nthat is a NoneType, not a state"),
    "an array": ([X], r"the state at '\[0\]'\nthat is an array, not a state"),
}
for name, (states, match) in GIVEN.items():
    row(
        f"functionalize: {name} for states",
        lambda n, states=states: sl.functionalize(lambda: touch(n), states),
        E,
        r"asked functionalize for " + match,
    )
row(
    "functionalize: a tree for states",
    lambda n: sl.functionalize(lambda: touch(n), n),
    E,
    r"asked functionalize for states=Net.*\nthat is a Net, not a state",
)
row(
    "functionalize: a state twice",
    lambda n: sl.functionalize(lambda: touch(n), [n.calls, n.calls]),
    D,
    r"asked functionalize for states\nthe same state is given twice",
)
row(
    "functionalize: no states",
    lambda n: sl.functionalize(lambda: touch(n), []),
    D,
    r"asked functionalize for states\nnone are given",
)
row(
    "functionalize: no function",
    lambda n: sl.functionalize(3, [n.calls]),
    B,
    r"asked functionalize for fun=3\nthat is a int, not a function",
)
VALUES = {
    "of another form": ({"a": 1}, C, r"functionalize for values by \[0\]\n.* given by \['a'\]"),
    "too few": ([], C, r"functionalize for values by \[0\]\nthe values are given by \[\]"),
    "none": (X, C, r"functionalize for values by \[0\]\nthe values are given by \[\]"),
}
for name, (values, error, match) in VALUES.items():
    row(
        f"functionalize: values {name}",
        lambda n, values=values: sl.functionalize(lambda: touch(n), [n.calls])(values),
        error,
        match,
    )
row(
    "functionalize: states for values",
    lambda n: sl.functionalize(lambda: touch(n), [n.calls])([n.calls]),
    E,
    r"asked for a value of State\(.*'calls'\)\nthere is State\(.*a state itself",
)
row(
    "functionalize: another state is written",
    lambda n: sl.functionalize(lambda: touch(n), [sl.State(0)])([1]),
    D,
    r"asked to functionalize '<lambda>'\nit wrote State\(.*'calls'\), which isn't among",
)
row(
    "functionalize: a coroutine",
    lambda n: sl.functionalize(later, [n.calls])([1]),
    B,
    r"asked to run later.*\nit returned a coroutine",
)


# overlay.

OVERLAID = {
    "a text for a state": (
        {"calls": 1},
        E,
        r"asked to overlay 'calls'\nthat is a str, not a state",
    ),
    "a list": ([1], B, r"asked to overlay \[1\]\nthat is a list, and not values by state"),
    "nothing by state": (0, B, r"asked to overlay 0\nthat is a int, and not values by state"),
}
for name, (values, error, match) in OVERLAID.items():
    row(f"overlay: {name}", lambda n, values=values: sl.overlay(values), error, match)
row("overlay: a state", lambda n: sl.overlay(n.calls), B, r"State\(.*\nthat is a State, and")
row(
    "overlay: a state for a value",
    lambda n: sl.overlay({n.calls: n.calls}),
    E,
    r"asked for a value of State\(.*'calls'\)\nthere is State\(.*a state itself",
)


def open_twice(n):
    with sl.overlay({n.calls: 1}) as trial, trial:
        pass


def commit_in_plain_jax(n):
    @jax.jit
    def run(x):
        with sl.overlay() as trial:
            n.calls.value = x
        trial.commit()

    run(X)


row("overlay: open twice", open_twice, A, r"asked to open an overlay\nit is open already")
row("overlay: what is traced", commit_in_plain_jax, LEAK, r"asked to assign a value to State\(.*'c")


# State.

row("State: a state", lambda n: sl.State(n.calls), E, r"asked for a State of State\(.*'calls'\)")
row("State: a tag", lambda n: sl.State(0, tag=3), B, r"state with tag=3\nthat is a int, and a tag")
row("State: tags", lambda n: sl.State(0, tag=["a", 3]), B, r"with tag=\['a', 3\]\nthat is a list")
row("State: no attribute", lambda n: n.calls.vlaue, AttributeError, r"no attribute 'vlaue'")
USES = {
    "[]": lambda n: n.calls[0],
    "[] =": lambda n: n.calls.__setitem__(0, 1),
    "+": lambda n: n.calls + 1,
    "<": lambda n: n.calls < 3,
    "-": lambda n: -n.calls,
    "float": lambda n: float(n.calls),
    "list": lambda n: list(n.calls),
    "NumPy": lambda n: np.sin(n.calls),
}
for name, use in USES.items():
    row(f"State: {name}", use, E, r"asked to use State\(.*'calls'\) as an array.*write \.value")


@pytest.mark.parametrize(("call", "error", "match"), row)
def test_refused(call, error, match):
    check_refused(call, error, match, Net)


def test_rows_have_names_of_their_own():
    names = [each.id for each in row]
    assert len(set(names)) == len(names)
