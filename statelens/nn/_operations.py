"""What can be done with a facade module: its states, its nodes, its mode."""

from collections.abc import Mapping
from typing import Any, Self, overload

from .._errors import ArgumentTypeError, hide_own_frames, user_facing
from .._tree import MutableNode, Path
from ..lens import BoundLens, LensSpec, first_match, selector_of
from ..state import State
from ._graph import nodes_with_path
from ._mode import inference_mode


class Operations(MutableNode):
    """The public methods of a `Module`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls `update`, where a subclass defines it as its forward pass."""
        try:  # what `user_facing` does, without a frame that each layer would add
            if type(self).update is Operations.update:
                raise ArgumentTypeError(
                    f"asked to call a {type(self).__name__}",
                    "the class has no forward pass",
                    "define __call__ in it",
                )
            return self.update(*args, **kwargs)
        except Exception as error:
            hide_own_frames(error)
            raise

    @overload
    def states(self, only: LensSpec = ..., /) -> BoundLens[Any]: ...

    @overload
    def states(
        self, first: LensSpec, second: LensSpec, /, *others: LensSpec
    ) -> tuple[BoundLens[Any], ...]: ...

    @user_facing
    def states(self, *filters: LensSpec) -> BoundLens[Any] | tuple[BoundLens[Any], ...]:
        """Returns the module's states, bound: a mapping from path to state.

        Args:
            *filters: State classes, path patterns, or anything else that `lens` takes.
                None gives all states. Arrays that are no states (in an Equinox layer, say)
                are among them where a filter selects them by path or by predicate; they come
                as views with a ``.value``. ``...`` stands for all states.

        Returns:
            Without a filter, or with one, a bound lens; with several, a tuple of them, in
            which the first filter that matches wins. It looks at the module again at each
            use, so that a parameter added later is seen. A pattern that matches nothing then
            is an error; of another filter it may be empty, which `grad` and the like refuse.

        Example:
            >>> import jax.numpy as jnp, statelens as sl
            >>> model = sl.nn.Module()
            >>> model.scale = sl.ParamState(jnp.ones(2))
            >>> model.calls = sl.State(jnp.zeros((), int))
            >>> params, others = model.states(sl.ParamState, ...)
            >>> list(params), list(others)
            ([('scale',)], [('calls',)])
        """
        specs = tuple(State if spec is ... else spec for spec in filters) or (State,)
        bound = first_match(selector_of(...), specs, self)[:-1]
        return bound[0] if len(bound) == 1 else tuple(bound)

    @user_facing
    def nodes(self, *filters: type) -> dict[Path, Any]:
        """Returns the modules in this one by path, itself under the empty path.

        Args:
            *filters: Classes to keep. None gives all.

        Returns:
            Each module once, by the first path that leads to it.

        Example:
            >>> import statelens as sl
            >>> model = sl.nn.Module()
            >>> model.inner = sl.nn.Module()
            >>> list(model.nodes())
            [(), ('inner',)]
        """
        found = nodes_with_path(self)
        return {path: node for path, node in found if not filters or isinstance(node, filters)}

    @user_facing
    def assign(
        self, values: Mapping[Any, Any], *, strict: bool = False, replace: bool = False
    ) -> None:
        """Assigns values by path: all of them, or none if one is refused.

        Arrays of NumPy are copied, and arrays are placed on the devices where those lie that they
        replace.

        Args:
            values: New values by path, tuple or text, of states and of arrays.
            strict: Whether there must be a value for each state and array. Otherwise those that
                are left out keep their values.
            replace: Whether a value may differ in structure, shape or dtype.

        Raises:
            PathError: A path isn't there, is given twice, or is missing and `strict`.
            StructureError: A value differs in structure, shape or dtype.

        Example:
            >>> import jax.numpy as jnp, statelens as sl
            >>> model = sl.nn.Module()
            >>> model.scale = sl.ParamState(jnp.ones(2))
            >>> model.assign({"scale": jnp.zeros(2)})
            >>> model.scale.value
            Array([0., 0.], dtype=float32)
        """
        BoundLens(selector_of(...), self).assign(values, strict=strict, replace=replace)

    def update(self, *args: Any, **kwargs: Any) -> Any:
        """Assigns values by path, as `assign` does.

        A subclass may define `update` as its forward pass instead, as ported programs do.

        Args:
            *args: As for `assign`.
            **kwargs: As for `assign`.
        """
        self.assign(*args, **kwargs)

    @user_facing
    def train(self) -> Self:
        """Sets all that is in the module to training: dropout drops, batches are normalised.

        The same as ``sl.nn.inference_mode(model, False)``, which says what is set.

        Returns:
            The module.

        Example:
            >>> import equinox as eqx, statelens as sl
            >>> model = sl.nn.Module()
            >>> model.dropout = eqx.nn.Dropout(0.5, inference=True)
            >>> model.train().dropout.inference
            False
        """
        return inference_mode(self, False)

    @user_facing
    def eval(self) -> Self:
        """Sets all that is in the module to evaluation: nothing is dropped, averages are used.

        The same as ``sl.nn.inference_mode(model)``, which says what is set. A function that was
        compiled sees it. A subclass that has more to set defines `eval` and `train` itself; those
        of the modules in a module aren't called.

        Returns:
            The module.

        Example:
            >>> import equinox as eqx, jax.numpy as jnp, statelens as sl
            >>> model = sl.nn.Module()
            >>> model.dropout = eqx.nn.Dropout(0.5)
            >>> model.eval().dropout(jnp.ones(2))
            Array([1., 1.], dtype=float32)
        """
        return inference_mode(self)
