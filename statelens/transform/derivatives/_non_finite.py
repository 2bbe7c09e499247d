"""`find_non_finite`: says which primitive, on which line, made the first nan or inf.

The function runs as it is, so that its result is exactly its own. Only where that result has
a nan or inf is the function traced to a jaxpr and evaluated a second time, equation by
equation, to find the first one that made a non-finite value from finite ones: at once where
values are known, and in a branch of a `jax.lax.cond` where they are being traced.
"""

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from ..._errors import HIDDEN, NonFiniteError, explain
from ...state import has_tracers
from .._core import Check, expect_errors

_LIBRARIES = (
    *HIDDEN,
    # Not imported for it: that would take long, and a program without optimisers needs none.
    os.sep + "optax" + os.sep,
)

# Primitives that do no more than run a jaxpr.
_CALLS = {"jit", "remat2", "checkpoint", "closed_call", "custom_jvp_call", "custom_vjp_call"}

_HARMLESS = {"DebugEffect", "OrderedDebugEffect"}


def find_non_finite(
    fun: Callable[..., Any],
    name_leaves: Callable[[Any], Sequence[tuple[str, Any]]],
    asked_by: str,
    name_inputs: Callable[[], Sequence[tuple[str, Any]]] = list,
) -> Callable[..., Any]:
    """Makes a function raise where a leaf of its result, as `name_leaves` lists them, isn't finite.

    What goes into it, as an argument or by being closed over, is called as `name_inputs` says.

    Where values are traced (in `jax.jit`, `jax.vmap`, `jax.lax.scan`) the error is raised in a
    callback, and comes out of JAX as a `jax.errors.JaxRuntimeError` that bears its text. To find
    the primitive, `fun` is called a second time: what it prints is printed again.
    """

    def watched(*args: Any) -> Any:
        result = fun(*args)
        leaves = [(label, leaf) for label, leaf in name_leaves(result) if _is_inexact(leaf)]
        if not leaves:
            return result
        labels = [(label, np.size(leaf)) for label, leaf in leaves]
        counts = _count_non_finite([leaf for _, leaf in leaves])
        is_traced = has_tracers(counts)
        if not is_traced and not np.any(counts):
            return result
        search = _Search(fun, args, name_inputs())

        def report(counts: Any, found: Any) -> None:
            # Under vmap both branches run, for all lanes: the finite ones come here as well.
            if np.any(counts):
                raise NonFiniteError(_message(labels, counts, search, found, asked_by))

        if is_traced:
            _stage(report, search, jax.lax.stop_gradient(counts))
        else:
            report(counts, search.run(search.inputs))
        return result

    return watched


def _is_inexact(value: Any) -> bool:
    return eqx.is_array_like(value) and jnp.issubdtype(jax.typeof(value).dtype, jnp.inexact)


@jax.jit
def _count_non_finite(leaves: list[Any]) -> jax.Array:
    return jnp.stack([jnp.sum(~jnp.isfinite(leaf), dtype=jnp.int32) for leaf in leaves])


def _stage(report: Callable[..., None], search: "_Search", counts: jax.Array) -> None:
    raising = Check(report)

    def locate(counts: jax.Array, inputs: Any) -> None:
        jax.debug.callback(raising, counts, search.run(inputs))

    expect_errors(raising)
    inputs = jax.lax.stop_gradient(search.inputs)
    jax.lax.cond(jnp.any(counts > 0), locate, lambda *_: None, counts, inputs)


class _Search:
    """A search for the first equation of a function that makes a non-finite value."""

    def __init__(
        self, fun: Callable[..., Any], args: tuple[Any, ...], names: Sequence[tuple[str, Any]]
    ):
        # The arrays among the arguments, and those closed over, which `run` takes.
        self.inputs: list[Any] = []
        self.labels: list[str] = []
        # Numbers of Python among them, which are constants of the jaxpr.
        self.numbers = [name for name, leaf in names if _is_bad_number(leaf)]
        # Each equation that was evaluated: its primitive's name, and where it comes from.
        self.equations: list[tuple[str, Any]] = []
        # Why the function could not be searched.
        self.failure: str | None = None
        arrays, static = eqx.partition(args, lambda x: eqx.is_array(x) or _is_inexact(x))

        def pure(arrays: Any) -> Any:
            return eqx.filter(fun(*eqx.combine(arrays, static)), eqx.is_array)

        try:
            closed = jax.make_jaxpr(pure)(arrays)
        # The search explains another error: whatever stops it must not hide that one.
        except Exception as error:
            self._give_up(error)
            return
        self._jaxpr = closed.jaxpr
        named = jax.tree_util.tree_leaves_with_path(arrays)
        self.inputs = [*closed.consts, *(jnp.asarray(leaf) for _, leaf in named)]
        labels = [("an array that the function closes over", const) for const in closed.consts]
        labels += [(f"args{jax.tree_util.keystr(path)}", leaf) for path, leaf in named]
        self.labels = [
            next((name for name, leaf in names if _is_same(leaf, value)), label)
            for label, value in labels
        ]

    def run(self, inputs: Sequence[Any]) -> Any:
        """Evaluates the function; can be traced.

        Gives an array of integers: the first equation that makes a non-finite value from finite
        ones, the first that makes a nan from none, and the first input that isn't finite; `_NONE`
        where there is none.
        """
        found = _nothing()
        if self.failure is None:
            try:
                _, found = self._evaluate(self._jaxpr, inputs)
            except Exception as error:
                self._give_up(error)
        bad = [jnp.where(_mark(value) > 0, i, _NONE) for i, value in enumerate(inputs)]
        return jnp.append(found, jnp.min(jnp.array([_NONE, *bad], jnp.int32)))

    def _give_up(self, error: Exception) -> None:
        self.failure = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"

    def _evaluate(
        self, jaxpr: Any, values: Sequence[Any], caller: Any = None
    ) -> tuple[list[Any], jax.Array]:
        """Evaluates a jaxpr; gives its outputs, and what is found."""
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], values, strict=True))
        marks = {variable: _mark(value) for variable, value in env.items()}
        numbers: list[tuple[int, Any]] = []
        found = [_nothing()]
        for eqn in jaxpr.eqns:
            if not eqn.outvars:
                continue  # a callback, which has run already
            if any(type(effect).__name__ not in _HARMLESS for effect in eqn.effects):
                raise NotImplementedError(f"`{eqn.primitive.name}` has effects")
            inputs = [x.val if isinstance(x, Literal) else env[x] for x in eqn.invars]
            source = eqn.source_info.traceback if caller is None else caller
            nested = self._nested(eqn, inputs, source, caller)
            if nested is None:
                outputs = eqn.primitive.bind(*inputs, **eqn.primitive.get_bind_params(eqn.params))
                outputs = outputs if eqn.primitive.multiple_results else [outputs]
                numbers.append((len(self.equations), eqn))
                self.equations.append((eqn.primitive.name, source))
            else:
                outputs, inner = nested
                found.append(inner)
            outputs, made = _marked(list(outputs))
            env.update(zip(eqn.outvars, outputs, strict=True))
            marks.update(zip(eqn.outvars, made, strict=True))
        outputs = [x.val if isinstance(x, Literal) else env[x] for x in jaxpr.outvars]
        # Equations are numbered in the order in which they run.
        return outputs, jnp.min(jnp.stack([*found, _first(numbers, marks)]), axis=0)

    def _inner(
        self, jaxpr: Any, values: Sequence[Any], caller: Any = None
    ) -> tuple[list[Any], jax.Array]:
        """Evaluates a jaxpr of an equation, which may be a closed one."""
        consts = getattr(jaxpr, "consts", ())
        return self._evaluate(_opened(jaxpr), [*consts, *values], caller)

    def _nested(
        self, eqn: Any, inputs: list[Any], source: Any, caller: Any
    ) -> tuple[Sequence[Any], jax.Array] | None:
        """Evaluates an equation that runs jaxprs; None for another one."""
        name, params = eqn.primitive.name, eqn.params
        if name in _CALLS:
            jaxpr = params["jaxpr"] if "jaxpr" in params else params["call_jaxpr"]
            return self._inner(jaxpr, inputs, source if _is_library(jaxpr) else caller)
        if name == "cond":
            branches = [
                functools.partial(self._inner, jaxpr, caller=caller) for jaxpr in params["branches"]
            ]
            return jax.lax.switch(inputs[0], branches, inputs[1:])
        if name == "while":
            return self._while(params, inputs, caller)
        if name == "scan" and (sizes := _scan_sizes(params)) is not None:
            return self._scan(params, sizes, inputs, caller)
        return None

    def _while(
        self, params: Any, inputs: list[Any], caller: Any
    ) -> tuple[Sequence[Any], jax.Array]:
        first, second = params["cond_nconsts"], params["body_nconsts"]
        cond_consts, rest = inputs[:first], inputs[first:]
        body_consts, init = rest[:second], rest[second:]

        def goes_on(carry: Any) -> Any:
            return self._inner(params["cond_jaxpr"], [*cond_consts, *carry[0]])[0][0]

        def body(carry: Any) -> Any:
            values, found = carry
            values, inner = self._inner(params["body_jaxpr"], [*body_consts, *values], caller)
            return values, _earlier(found, inner)

        return jax.lax.while_loop(goes_on, body, (init, _nothing()))

    def _scan(
        self, params: Any, sizes: tuple[int, int], inputs: list[Any], caller: Any
    ) -> tuple[Sequence[Any], jax.Array]:
        n_consts, n_carry = sizes
        consts, rest = inputs[:n_consts], inputs[n_consts:]

        def body(carry: Any, xs: Any) -> Any:
            values, found = carry
            outputs, inner = self._inner(params["jaxpr"], [*consts, *values, *xs], caller)
            return (outputs[:n_carry], _earlier(found, inner)), outputs[n_carry:]

        (carry, found), ys = jax.lax.scan(
            body,
            (rest[:n_carry], _nothing()),
            rest[n_carry:],
            length=params["length"],
            reverse=params["reverse"],
        )
        return [*carry, *ys], found


_NONE = np.iinfo(np.int32).max
"""In the place of a number of an equation, where there is none."""


def _nothing() -> jax.Array:
    return jnp.full(2, _NONE, jnp.int32)


def _earlier(found: jax.Array, inner: jax.Array) -> jax.Array:
    """Gives what an earlier turn of a loop has found, or else what a later one has."""
    return jnp.where(found == _NONE, inner, found)


def _mark(value: Any) -> Any:
    """Marks a value: 0 if it is finite, 1 if it has an inf, 2 if it has a nan."""
    if not _is_inexact(value):
        return np.int8(0)
    entries = jnp.isnan(value).astype(jnp.int8) + ~jnp.isfinite(value)
    return jnp.max(entries, initial=0)


def _mark_of_literal(literal: Any) -> int:
    """Marks a constant as `_mark` does, while it is known."""
    value = np.asarray(literal.val, np.complex128) if _is_inexact(literal.val) else 0
    return 2 if np.isnan(value).any() else int(not np.isfinite(value).all())


@jax.jit
def _marked(outputs: list[Any]) -> Any:
    """Gives what an equation has made, with its marks."""
    # The barrier keeps XLA from computing a chain of equations once more for each mark, and within
    # that once more for each before it: the time to compile grew fivefold by each equation.
    return jax.lax.optimization_barrier((outputs, list(map(_mark, outputs))))


def _first(numbers: list[tuple[int, Any]], marks: dict[Any, Any]) -> jax.Array:
    """Says which equation is the first to make a non-finite value of finite ones, and a nan."""
    if not numbers:
        return _nothing()
    # All equations at once: XLA takes long to compile a comparison for each.
    place = {variable: number for number, variable in enumerate(marks, 3)}
    stacked = jnp.stack([*np.arange(3, dtype=np.int8), *marks.values()])

    def worst(atoms_of: Callable[[Any], Any]) -> jax.Array:
        rows = [
            [_mark_of_literal(x) if isinstance(x, Literal) else place[x] for x in atoms_of(eqn)]
            for _, eqn in numbers
        ]
        width = max(map(len, rows), default=0)
        return stacked[np.array([row + [0] * (width - len(row)) for row in rows], int)].max(1)

    before, after = worst(lambda eqn: eqn.invars), worst(lambda eqn: eqn.outvars)
    each = np.array([number for number, _ in numbers], np.int32)
    made = jnp.stack([(before < 1) & (after > 0), (before < 2) & (after > 1)])
    return jnp.min(jnp.where(made, each, _NONE), axis=1)


def _is_same(leaf: Any, value: Any) -> bool:
    """Says whether a value that goes into a jaxpr is this one; JAX makes another one of NumPy's."""
    if leaf is value or not isinstance(leaf, np.ndarray) or has_tracers(value):
        return leaf is value
    is_alike = _is_inexact(leaf) and _is_inexact(value) and leaf.shape == value.shape
    return is_alike and np.array_equal(leaf.astype(value.dtype), value, equal_nan=True)


def _is_bad_number(leaf: Any) -> bool:
    return isinstance(leaf, (float, complex)) and not np.isfinite(leaf)


def _opened(jaxpr: Any) -> Any:
    return getattr(jaxpr, "jaxpr", jaxpr)


def _scan_sizes(params: Any) -> tuple[int, int] | None:
    if "num_carry" in params:
        return params["num_consts"], params["num_carry"]
    # JAX 0.12 keeps trees of the three groups instead. They aren't public, so that a scan is
    # taken as one primitive if they look different.
    unpack = getattr(params.get("ft_in"), "unpack", tuple)
    sizes = [len(group) for group in unpack()]
    n_inputs = len(_opened(params["jaxpr"]).invars)
    return (sizes[0], sizes[1]) if len(sizes) == 3 and sum(sizes) == n_inputs else None


def _is_library(jaxpr: Any) -> bool:
    # JAX keeps the jaxpr of its own jitted functions: what is in it bears the line of the
    # first call ever made, so that the line of this call has to be taken.
    source = getattr(_opened(jaxpr).debug_info, "func_src_info", "")
    return any(library in source for library in _LIBRARIES)


def _message(
    labels: list[tuple[str, int]], counts: Any, search: _Search, found: Any, asked_by: str
) -> str:
    bad = [
        (label, count, size) for (label, size), count in zip(labels, counts, strict=True) if count
    ]
    label, count, size = bad[0]
    text = f"{label} isn't finite: {count} of {size} entries"
    text += f" (and {len(bad) - 1} more leaves)" if len(bad) > 1 else ""
    first, first_nan, first_input = map(int, found)
    lines, remedies = [text], []
    is_unknown = first == first_input == _NONE
    bad_inputs = search.numbers if is_unknown else search.labels[first_input : first_input + 1]
    if bad_inputs:
        lines.append(f"an input is not finite already: {bad_inputs[0]}")
        remedies.append("look at what made that input: it isn't this function")
    if first != _NONE:
        name, source = search.equations[first]
        lines.append(
            f"`{name}` was the first to make a non-finite value from finite ones, {_line(source)}"
        )
        remedies.append(f"jnp.where on what goes into `{name}`, not only on what comes out of it")
    if first_nan not in (_NONE, first):
        name, source = search.equations[first_nan]
        lines.append(f"`{name}` was the first to make a nan, {_line(source)}")
    if search.failure is not None:
        lines.append(f"the primitive isn't known, the function can't be searched: {search.failure}")
        remedies.append("call it within jax.debug_nans(True), which stops at the primitive")
    elif is_unknown and not bad_inputs:
        lines.append("no primitive made it from finite values: a constant isn't finite")
    return explain(f"asked {asked_by} to stop at the first nan or inf", "\n".join(lines), *remedies)


def _line(source: Any) -> str:
    for frame in source.frames if source is not None else ():
        if not any(library in frame.file_name for library in _LIBRARIES):
            return f"at {frame.file_name}:{frame.line_num} ({frame.function_name})"
    return "on no line of yours"
