"""One training step in one compiled program: value, gradient, and new values."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from .._errors import ArgumentTypeError, StructureError, check_callable, user_facing
from .._tree import Cell, Path, a_leaf, flatten_with_path, format
from ..thread import thread
from ..transform.compilation import JitFunction, jit
from ..transform.control_flow import for_loop, scan
from ..transform.derivatives import grad
from ._ema import Ema
from ._optimizer import Optimizer
from ._precision import are_finite, loss_scale_in


class TrainStep:
    """A compiled training step; `train_step` makes it.

    Attributes:
        optimizer: The optimiser that it steps.
        run: One step, not compiled.
        jitted: One step, as `jit` gives it: ``step.jitted.lower(...)`` shows the program.
        jitted_scan: Several steps, over batches that are stacked, likewise; it gives the outputs
            stacked.
    """

    run: Callable[..., Any]
    jitted: JitFunction[..., Any]
    jitted_scan: JitFunction[..., Any]

    def __init__(
        self,
        loss: Callable[..., Any],
        optimizer: Optimizer,
        *,
        has_aux: bool,
        clip: optax.GradientTransformation,
        ema: Ema | None,
        donate: bool,
    ):
        self.optimizer = optimizer
        self._ema = ema
        self._loss = loss
        self._has_aux = has_aux
        self._clip = clip
        self._has_looked = False
        self.run, scanned = self._step_tree, self._scan_trees
        options: dict[str, Any] = {"donate_states": optimizer.only, "donate_argnums": 1}
        if optimizer.is_bound:
            self.run, scanned = self._step_states, self._scan_states
            options = {"donate_states": True}
        options = options if donate else {}
        self.jitted = jit(self.run, **options)
        self.jitted_scan = jit(scanned, **options)
        functools.update_wrapper(self, loss, updated=())

    @user_facing
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Makes one step; see `train_step`."""
        if not self._has_looked:
            self.refuse_ties(args)
        return self.jitted(*args, **kwargs)

    def refuse_ties(self, args: tuple[Any, ...]) -> None:
        """Refuses a tree in which one state stands at two places: JAX makes two states of it."""
        self._has_looked = True
        if self.optimizer.is_bound or not args:
            return
        first: dict[int, Path] = {}
        for path, leaf in zip(*flatten_with_path(args[0])[:2], strict=True):
            if isinstance(leaf, Cell) and first.setdefault(id(leaf), path) != path:
                raise StructureError(
                    f"asked for a compiled training step of {a_leaf(args[0])}",
                    f"the state at '{format(first[id(leaf)])}' is that at '{format(path)}' too, "
                    "and a compiled function would give two of them back",
                    "an nn.Module around them, in which what is shared stays shared",
                    "optimizer.update, without train_step, which keeps what is tied",
                )

    @user_facing
    def init(self, tree: Any) -> Any:
        """Returns what a functional step takes beside a tree: what the optimiser keeps.

        Args:
            tree: The tree that is trained.

        Returns:
            What ``optimizer.init(tree)`` gives; with averages a pair of that and what
            ``ema.init(tree)`` gives.
        """
        state = self.optimizer.init(tree)
        return state if self._ema is None else (state, self._ema.init(tree))

    def __repr__(self) -> str:
        return f"train_step({getattr(self._loss, '__name__', self._loss)!s})"

    def _step_states(self, *args: Any, **kwargs: Any) -> Any:
        def value_fn() -> Any:
            return self._value(self._loss(*args, **kwargs))

        def grad_fn(*_: Any) -> Any:
            return grad(value_fn, only)()

        scale, only = loss_scale_in(self.optimizer.state.value), self.optimizer.only
        fun = self._scaled(self._loss, self._has_aux, scale)
        grads, value, *aux = grad(fun, only, has_aux=self._has_aux, return_value=True)(
            *args, **kwargs
        )
        grads, value = self._unscaled(grads, value, scale)
        extra = {"value": value, "grad": grads, "value_fn": value_fn, "grad_fn": grad_fn}
        self.optimizer.step(grads, **self._accepted(extra))
        if self._ema is not None:
            self._ema.step()
        return (value, *aux) if aux else value

    def _step_tree(self, tree: Any, state: Any, *args: Any, **kwargs: Any) -> Any:
        def value_fn(tree: Any) -> Any:
            return self._value(thread(self._loss)(tree, *args, **kwargs)[0])

        def grad_fn(tree: Any, *_: Any) -> Any:
            return grad(value_fn, self.optimizer.only)(tree)

        # Threaded, so that states in the tree are given back as the loss has left them.
        threaded = thread(self._loss, has_aux=self._has_aux)
        state, *averages = state if self._ema is not None else (state,)
        scale = loss_scale_in(state)
        fun = self._scaled(threaded, True, scale)
        fun = grad(fun, self.optimizer.only, has_aux=True, return_value=True)
        grads, value, after = fun(tree, *args, **kwargs)
        aux, tree = after if self._has_aux else (None, after)
        grads, value = self._unscaled(grads, value, scale)
        extra = {"value": value, "grad": grads, "value_fn": value_fn, "grad_fn": grad_fn}
        tree, state = self.optimizer.update(tree, state, grads, **self._accepted(extra))
        if self._ema is not None:
            state = state, self._ema.update(tree, *averages)
        return (tree, state, value, aux) if self._has_aux else (tree, state, value)

    def _accepted(self, extra: dict[str, Any]) -> dict[str, Any]:
        """Leaves out what the optimiser doesn't take; one that takes anything may pass it on."""
        update = inspect.signature(self.optimizer.transformation.update).parameters
        takes_all = any(each.kind is each.VAR_KEYWORD for each in update.values())
        found = {name: value for name, value in extra.items() if name in update}
        if not takes_all:
            return found
        return {name: extra[name] for name in ("value", "grad", "value_fn")} | found

    def _scan_states(self, *batches: Any) -> Any:
        return for_loop(self._step_states, *batches)

    def _scan_trees(self, tree: Any, state: Any, *batches: Any) -> Any:
        def body(carry: Any, batch: Any) -> Any:
            tree, state, *out = self._step_tree(*carry, *batch)
            return (tree, state), tuple(out)

        carry, out = scan(body, (tree, state), batches)
        return (*carry, *out)

    def _value(self, out: Any) -> Any:
        return out[0] if self._has_aux else out

    def _scaled(self, fun: Callable[..., Any], has_aux: bool, scale: Any) -> Callable[..., Any]:
        """Multiplies the value of a loss by the scale that the optimiser keeps, if it does."""
        if scale is None:
            return fun

        @functools.wraps(fun)
        def scaled(*args: Any, **kwargs: Any) -> Any:
            out = fun(*args, **kwargs)
            return (out[0] * scale, *out[1:]) if has_aux else out * scale

        return scaled

    def _unscaled(self, grads: Any, value: Any, scale: Any) -> tuple[Any, Any]:
        if scale is None:
            return self._clipped(grads), value
        # The scale itself may be too large for the dtype of a gradient.
        grads, value = jax.tree.map(lambda x: (x / scale).astype(x.dtype), (grads, value))
        # An overflow must not be clipped to a number that looks right.
        is_finite = are_finite(grads)
        chosen = functools.partial(jnp.where, is_finite)
        return jax.tree.map(chosen, self._clipped(grads), grads), value

    def _clipped(self, grads: Any) -> Any:
        return self._clip.update(grads, optax.EmptyState())[0]


@user_facing
def train_step(
    loss: Callable[..., Any],
    optimizer: Optimizer,
    *,
    has_aux: bool = False,
    clip: float | optax.GradientTransformation | None = None,
    ema: Ema | None = None,
    donate: bool = True,
) -> TrainStep:
    """Compiles a training step: gradient, optimiser, and new values, in one program.

    Where the optimiser is stateful, the step is called as the loss is, and returns what that
    returned; model and optimiser are assigned, all or nothing. Where it is functional, the
    loss takes the tree first, and the step is ``(tree, state, *args) -> (tree, state, value)``;
    states in the tree come back as the loss has left them.

    Args:
        loss: Returns a scalar; with `has_aux`, a pair of it and anything else.
        optimizer: An `Optimizer`. Line searches are given the value and the loss as well.
        has_aux: Whether the loss returns ``(value, aux)``; then the step gives `aux` at the end.
        clip: The largest norm of the whole gradient; or a transformation of Optax that keeps
            nothing, as in ``optax.clip(1.0)``.
        ema: Averages that take in the parameters after each step. Where they are of a lens, the
            state that is passed on is a pair, of which ``step.init(tree)`` gives the first.
        donate: Whether memory of what is optimised is used again. Then the old tree, as far as it
            is optimised, and the old state are deleted by a call, as are other names for
            the values of states.

    Returns:
        The step. It is compiled at its first call.

    Raises:
        ArgumentTypeError: `loss` isn't callable, `optimizer` is no `Optimizer`, or `clip` is
            neither a number nor a transformation of Optax.

    Example:
        >>> import jax.numpy as jnp, optax, statelens as sl
        >>> def loss(model, x):
        ...     return jnp.sum((model["w"] * x - 1) ** 2)
        >>> model = {"w": jnp.zeros(1)}
        >>> optimizer = sl.optim.Optimizer(optax.sgd(0.25), "w")
        >>> step = sl.optim.train_step(loss, optimizer)
        >>> model, state, value = step(model, optimizer.init(model), jnp.ones(1))
        >>> model, value
        ({'w': Array([0.5], dtype=float32)}, Array(1., dtype=float32))

        By states:

        >>> model = sl.nn.Module()
        >>> model.w = sl.ParamState(jnp.zeros(1))
        >>> optimizer = sl.optim.Optimizer(optax.sgd(0.25), model.states(sl.trainable))
        >>> step = sl.optim.train_step(lambda x: jnp.sum((model.w.value * x - 1) ** 2), optimizer)
        >>> step(jnp.ones(1)), model.w.value
        (Array(1., dtype=float32), Array([0.5], dtype=float32))
    """
    check_callable(loss, "loss", "train_step")
    if not isinstance(optimizer, Optimizer):
        raise ArgumentTypeError(
            f"asked train_step for steps of {a_leaf(optimizer)}",
            "that is no Optimizer",
            "sl.optim.Optimizer(optax.adam(1e-3), lens), which knows what is optimised",
        )
    if ema is not None and ema.is_bound != optimizer.is_bound:
        raise ArgumentTypeError(
            f"asked train_step for steps of {a_leaf(optimizer)} with averages",
            "of optimiser and averages, one is of states, and the other of a lens",
            "one and the same for both, as in model.states(sl.trainable)",
        )
    clipping = _clipping(clip)
    return TrainStep(loss, optimizer, has_aux=has_aux, clip=clipping, ema=ema, donate=donate)


def _clipping(clip: Any) -> optax.GradientTransformation:
    if clip is None:
        return optax.identity()
    if isinstance(clip, (int, float)) and clip > 0:
        return optax.clip_by_global_norm(clip)
    if isinstance(clip, optax.GradientTransformation):
        # One that keeps something belongs in the optimiser, which has a place for it.
        if clip.init({}) == optax.EmptyState():
            return clip
        raise ArgumentTypeError(
            "asked train_step to clip by a transformation of Optax",
            "it keeps something from step to step",
            "optax.chain(transformation, optax.adam(1e-3)), as the optimiser",
        )
    raise ArgumentTypeError(
        f"asked train_step to clip by {clip!r}",
        "that is neither a norm above 0 nor a transformation of Optax",
        "clip=1.0, or clip=optax.clip(1.0)",
    )
