"""What a state isn't: an array, or there for ever."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NoReturn

from .._errors import (
    ArgumentTypeError,
    EndedFrameError,
    FrozenTreeError,
    StateTypeError,
    TracerLeakError,
    user_facing,
)
from ._context import TOP, current_trace, has_tracers

if TYPE_CHECKING:
    from ._state import State


def _refuse_use(operation: str) -> Any:
    @user_facing
    def refuse(self: Any, *args: Any) -> NoReturn:
        raise StateTypeError(
            f"asked to use {self!r} as an array, by '__{operation}__'",
            "a state is a cell that holds the array",
            "write .value, as in state.value + 1",
        )

    return refuse


class NoArray:
    """A cell that holds an array, and isn't one."""

    __slots__ = ()


# What an array can do and a cell can't; == stays identity, so that states can be keys.
_BINARY = "add sub mul truediv floordiv mod divmod pow matmul and or xor lshift rshift"
_OTHER = (
    "neg pos abs invert lt le gt ge getitem setitem len iter float int complex index round "
    "array jax_array"
)
for _operation in f"{_BINARY} {_OTHER}".split():
    setattr(NoArray, f"__{_operation}__", _refuse_use(_operation))
for _operation in _BINARY.split():
    setattr(NoArray, f"__r{_operation}__", _refuse_use(_operation))


def refuse_equality(cls: type) -> NoReturn:
    """Refuses a class whose states would be taken for one another."""
    owner = next((c for c in cls.__mro__ if {"__eq__", "__hash__"} & vars(c).keys()), cls)
    raise StateTypeError(
        f"asked for a {cls.__name__}",
        f"{owner.__name__} defines __eq__ or __hash__, and states are told apart by identity: two "
        "that are equal would be taken for one",
        "a method of another name, as in state.is_like(other)",
        "a comparison of the values, as in a.value == b.value",
        "@dataclass(eq=False), if it is a dataclass",
    )


def read_tags(tag: Any) -> frozenset[str]:
    """Reads one tag or several, or refuses what is none."""
    if tag is None:
        return frozenset()
    tags = [tag] if isinstance(tag, str) else list(tag) if isinstance(tag, Iterable) else [tag]
    if not all(isinstance(each, str) for each in tags):
        raise ArgumentTypeError(
            f"asked for a state with tag={tag!r}",
            f"that is a {type(tag).__name__}, and a tag is a text",
            "tag='slow', or several, as in tag=['slow', 'head']",
        )
    return frozenset(tags)


def refuse_state_inside(cell: "State[Any]", inner: Any) -> NoReturn:
    """Refuses a state in the value of another one."""
    raise StateTypeError(
        f"asked for a {type(cell).__name__} of {inner!r}",
        "a state's value is a pytree of arrays, without states in it",
        "its value, as in State(other.value)",
        "a plain list or dictionary of states, without a state around it",
    )


def refuse_ended(cell: "State[Any]") -> NoReturn:
    """Refuses to give the value of a state that ended with the call in which it was made."""
    raise TracerLeakError(
        f"asked for the value of {cell._description()}",
        "the state was made inside a transformed function, and its traced value ended "
        "with the call",
        "make the state before the call",
        "return the state, or its value, from the function",
    )


def refuse_ended_frame(asked: str) -> NoReturn:
    """Refuses to go on in a frame that has ended."""
    raise EndedFrameError(
        asked,
        "this task, thread or generator was started in a transform or an overlay that has "
        "ended since: what it would read is gone, and what it writes would be lost",
        "start it outside of the transform or the overlay",
        "contextvars.Context().run(...), in which it inherits nothing",
    )


def refuse_leak(cell: "State[Any]", value: Any) -> None:
    """Refuses a write inside a plain JAX transform, where no frame takes it out again."""
    # A traced value would leak; any other would be written once, while tracing, and never when
    # the compiled function runs, or into a copy that JAX throws away.
    if not cell.is_at_home and (current_trace() != TOP or has_tracers(value)):
        _refuse_write(f"asked to assign a value to {cell!r}")


def refuse_write_inside(cell: "State[Any]") -> NoReturn:
    """Refuses a write inside a plain JAX transform that runs in a frame."""
    raise TracerLeakError(
        f"asked to assign a value to {cell!r}",
        "a plain JAX transform is running inside a transform of statelens: it would "
        "leave its tracer in the state, or lose the value",
        "the transform of the same name that knows of states, such as statelens.jit, "
        "statelens.transform.vmap or statelens.transform.scan",
        "return the value from the inner function, and assign it outside",
        "statelens.functionalize(inner, states), which JAX transforms take",
    )


def refuse_change_in_place(cell: "State[Any]") -> NoReturn:
    """Refuses what was written inside a plain JAX transform to a copy of the state's value."""
    _refuse_write(f"asked to change in place what {cell._description()} holds")


def _refuse_write(asked: str) -> NoReturn:
    raise TracerLeakError(
        asked,
        "a plain JAX transform is running, or was: it would leave its tracer in the state, or "
        "lose the value",
        "the transform of the same name that knows of states, such as statelens.jit, "
        "statelens.transform.vmap or statelens.transform.scan",
        "statelens.functionalize(fun, states), a pure function that any JAX transform "
        "takes, and that gives the new values back",
        "statelens.thread(fun), if the state is in the first argument",
    )


def refuse_frozen(cell: "State[Any]", path: str) -> NoReturn:
    """Refuses a write to a state of a tree that was passed as an argument."""
    raise FrozenTreeError(
        f"asked to write the state '{path}' of a tree that was passed as an argument",
        f"{cell!r} belongs to a functional tree; the write would be lost with it",
        "statelens.thread(fun), which gives (out, tree): jit(thread(fun))(tree, ...) gives "
        "(out, tree), grad(thread(fun), lens, has_aux=True)(tree, ...) gives (grads, tree)",
        "a model that is closed over: its states are written back, and grad takes them bound, "
        "as in grad(fun, lens.bind(model))",
    )
