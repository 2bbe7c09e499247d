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
    os.path.dirname(os.path.abspath(eqx.__file__)) + os.sep,
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
) -> Callable[..., Any]:
    """Makes a function raise where a leaf of its result, as `name_leaves` lists them, isn't finite.

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
        search = _Search(fun, args)

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

    def __init__(self, fun: Callable[..., Any], args: tuple[Any, ...]):
        # The arrays among the arguments, and those closed over, which `run` takes.
        self.inputs: list[Any] = []
        self.labels: list[str] = []
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
        self.labels = ["an array that the function closes over"] * len(closed.consts)
        self.labels += [f"args{jax.tree_util.keystr(path)}" for path, _ in named]

    def run(self, inputs: Sequence[Any]) -> Any:
        """Evaluates the function; can be traced.

        Gives an array of integers: the first equation that makes a non-finite value from finite
        ones, the first that makes a nan from none, and the first input that isn't finite; -1
        where there is none.
        """
        nothing = jnp.full(2, -1, jnp.int32)
        first_input = jnp.int32(-1)
        for number, value in enumerate(inputs):
            if _is_inexact(value):
                bad = (first_input < 0) & ~jnp.isfinite(value).all()
                first_input = jnp.where(bad, number, first_input)
        if self.failure is None:
            try:
                _, found = self._evaluate(self._jaxpr, inputs, nothing)
                return jnp.append(found, first_input)
            except Exception as error:
                self._give_up(error)
        return jnp.append(nothing, first_input)

    def _give_up(self, error: Exception) -> None:
        self.failure = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"

    def _evaluate(
        self, jaxpr: Any, values: Sequence[Any], found: jax.Array, caller: Any = None
    ) -> tuple[list[Any], jax.Array]:
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], values, strict=True))

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, Literal) else env[atom]

        for eqn in jaxpr.eqns:
            if not eqn.outvars:
                continue  # a callback, which has run already
            if any(type(effect).__name__ not in _HARMLESS for effect in eqn.effects):
                raise NotImplementedError(f"`{eqn.primitive.name}` has effects")
            inputs = [read(atom) for atom in eqn.invars]
            outputs, found = self._equation(eqn, inputs, found, caller)
            env.update(zip(eqn.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars], found

    def _nested(
        self, jaxpr: Any, values: Sequence[Any], found: jax.Array, caller: Any = None
    ) -> tuple[list[Any], jax.Array]:
        """Evaluates a jaxpr of an equation, which may be a closed one."""
        consts = getattr(jaxpr, "consts", ())
        return self._evaluate(_opened(jaxpr), [*consts, *values], found, caller)

    def _equation(
        self, eqn: Any, inputs: list[Any], found: jax.Array, caller: Any
    ) -> tuple[Sequence[Any], jax.Array]:
        name, params = eqn.primitive.name, eqn.params
        source = eqn.source_info.traceback if caller is None else caller
        if name in _CALLS:
            jaxpr = params["jaxpr"] if "jaxpr" in params else params["call_jaxpr"]
            caller = source if _is_library(jaxpr) else caller
            return self._nested(jaxpr, inputs, found, caller)
        if name == "cond":
            branches = [
                functools.partial(self._nested, jaxpr, caller=caller)
                for jaxpr in params["branches"]
            ]
            return jax.lax.switch(inputs[0], branches, inputs[1:], found)
        if name == "while":
            return self._while(params, inputs, found, caller)
        if name == "scan" and (sizes := _scan_sizes(params)) is not None:
            return self._scan(params, sizes, inputs, found, caller)
        outputs = eqn.primitive.bind(*inputs, **eqn.primitive.get_bind_params(params))
        outputs = outputs if eqn.primitive.multiple_results else [outputs]
        number = len(self.equations)
        self.equations.append((name, source))
        made = [_all(ok, inputs) & ~_all(ok, outputs) for ok in (jnp.isfinite, _is_number)]
        return outputs, jnp.where((found < 0) & jnp.stack(made), number, found)

    def _while(
        self, params: Any, inputs: list[Any], found: jax.Array, caller: Any
    ) -> tuple[Sequence[Any], jax.Array]:
        first, second = params["cond_nconsts"], params["body_nconsts"]
        cond_consts, rest = inputs[:first], inputs[first:]
        body_consts, init = rest[:second], rest[second:]

        def goes_on(carry: Any) -> Any:
            values = [*cond_consts, *carry[0]]
            return self._nested(params["cond_jaxpr"], values, carry[1])[0][0]

        def body(carry: Any) -> Any:
            values = [*body_consts, *carry[0]]
            return self._nested(params["body_jaxpr"], values, carry[1], caller)

        return jax.lax.while_loop(goes_on, body, (init, found))

    def _scan(
        self, params: Any, sizes: tuple[int, int], inputs: list[Any], found: jax.Array, caller: Any
    ) -> tuple[Sequence[Any], jax.Array]:
        n_consts, n_carry = sizes
        consts, rest = inputs[:n_consts], inputs[n_consts:]

        def body(carry: Any, xs: Any) -> Any:
            values = [*consts, *carry[0], *xs]
            outputs, found = self._nested(params["jaxpr"], values, carry[1], caller)
            return (outputs[:n_carry], found), outputs[n_carry:]

        (carry, found), ys = jax.lax.scan(
            body,
            (rest[:n_carry], found),
            rest[n_carry:],
            length=params["length"],
            reverse=params["reverse"],
        )
        return [*carry, *ys], found


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


def _is_number(value: Any) -> jax.Array:
    return ~jnp.isnan(value)


def _all(holds: Callable[[Any], jax.Array], values: Sequence[Any]) -> Any:
    result = jnp.bool_(True)
    for value in values:
        if _is_inexact(value):
            result = result & holds(value).all()
    return result


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
    if first_input >= 0:
        lines.append(f"an input is not finite already: {search.labels[first_input]}")
        remedies.append("look at what made that input: it isn't this function")
    if first >= 0:
        name, source = search.equations[first]
        lines.append(
            f"`{name}` was the first to make a non-finite value from finite ones, {_line(source)}"
        )
        remedies.append(f"jnp.where on what goes into `{name}`, not only on what comes out of it")
    if first_nan >= 0 and first_nan != first:
        name, source = search.equations[first_nan]
        lines.append(f"`{name}` was the first to make a nan, {_line(source)}")
    if search.failure is not None:
        lines.append(f"the primitive isn't known, the function can't be searched: {search.failure}")
        remedies.append("call it within jax.debug_nans(True), which stops at the primitive")
    elif first < 0 and first_input < 0:
        lines.append("no primitive made it from finite values: a constant isn't finite")
    return explain(f"asked {asked_by} to stop at the first nan or inf", "\n".join(lines), *remedies)


def _line(source: Any) -> str:
    for frame in source.frames if source is not None else ():
        if not any(library in frame.file_name for library in _LIBRARIES):
            return f"at {frame.file_name}:{frame.line_num} ({frame.function_name})"
    return "on no line of yours"
