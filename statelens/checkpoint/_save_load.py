"""Saving a tree to a file, and loading it again: each leaf under its path."""

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar, overload

import numpy as np

from .._errors import CheckpointError, user_facing
from ..lens import BoundLens, LensSpec
from ._encoding import spec_of, to_host
from ._file import File, Tensor, check_metadata, write_file
from ._loading import Joined, Loading, Source, are_equal, listed, outputs
from ._names import Slot, Target, is_all, refuse_unsavable, slots_of
from ._report import Report, refuse
from ._rules import Conversion, Rename, Rule, UnusedRule, by_path, of_path, rules_of, unused

T = TypeVar("T")
Files: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""A file, or several that are one."""


@user_facing
def save(
    path: str | os.PathLike[str],
    tree: Any,
    *,
    lens: LensSpec = ...,
    metadata: Mapping[str, str] | None = None,
    rename: Rename = None,
) -> None:
    """Saves a tree to a safetensors file, which any safetensors reader opens.

    The name of each array is its written path. Saved are arrays of JAX and NumPy, random keys and
    Python's numbers, in states and outside of them; all else (functions, text, what a module has
    as plain attributes that aren't arrays) isn't, and comes from `like` when the file is loaded.
    A shared state is saved once.

    The file is written beside the old one, which it replaces when it is whole and on the disk:
    if the process dies in between, the old one is there.

    Args:
        path: The file. Through a link, the file that it points to.
        tree: Any pytree: a model of either style, a dictionary of a model, an optimiser's
            state, a key and a step; or a bound lens, for what it selects.
        lens: What of the tree is saved. Python's numbers are, if that is all of it, or if the
            lens takes them in: ``lens=sl.arrays`` saves none.
        metadata: Text by text, to be read by `read_header`.
        rename: Other names in the file: the rules by which `load` reads it. Each holds for
            something in the tree, whether or not the lens selects it.

    Raises:
        CheckpointError: A leaf can't be saved: a traced or donated array, or one of Python objects.
            Or a rule holds for nothing, by its path or since an earlier one has taken all of it.
        CheckpointFileError: The file can't be written.
        PathError: The lens' pattern matches nothing.
        MissingPackageError: safetensors isn't installed: ``pip install 'statelens[io]'``.

    Example:
        >>> import tempfile, jax, jax.numpy as jnp, statelens as sl
        >>> state = {"model": {"w": jnp.ones(2)}, "key": jax.random.key(0), "step": 3}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sl.checkpoint.save(f"{folder}/state.safetensors", state)
        ...     sl.checkpoint.load(f"{folder}/state.safetensors", {**state, "step": 0})["step"]
        3
    """
    entries = check_metadata(metadata)
    write_file(os.fspath(path), tensors_of(tree, lens, rename), entries)


def tensors_of(tree: Any, spec: LensSpec, rename: Rename) -> dict[str, Tensor]:
    """Lists what is to be written, by name; nothing is fetched yet but for functions of rules."""
    slots = slots_of(tree, spec, "save")
    refuse_unsavable(slots, "save")
    leaves = {name: slot.leaf for slot in slots for name in slot.names}
    tensors: dict[str, Tensor] = {}
    rules = rules_of(rename)
    conversions, wrong = _ruled(rules, slots)
    if wrong and (isinstance(tree, BoundLens) or not is_all(spec)):
        # What a lens leaves out may have rules.
        whole = tree.module if isinstance(tree, BoundLens) else tree
        _, wrong = _ruled(rules, slots_of(whole, ..., "save"))
    if wrong:
        raise CheckpointError(
            f"asked to save a tree by {len(rules)} rules, of which {len(wrong)} hold for nothing",
            "\n".join(map(str, wrong)),
            "rules for paths that are there, those for a few paths before those for many",
        )
    for conversion in conversions:
        for name, tensor in _converted(conversion, leaves):
            if name in tensors:
                raise CheckpointError(
                    f"asked to save '{conversion.names[0]}' as {name!r}",
                    "another array has that name in the file",
                    "rules whose patterns don't overlap; of several, the first that matches holds",
                )
            tensors[name] = tensor
    return tensors


def _ruled(rules: tuple[Rule, ...], slots: list[Slot]) -> tuple[list[Conversion], list[UnusedRule]]:
    """Says what leaves are called in the file, and which rules for paths hold for none of them."""
    names = [slot.names[0] for slot in slots]
    conversions = by_path(rules, names)
    wrong = unused(rules, conversions, names, of_path)
    return conversions, [each for each in wrong if each.rule.paths]


def _converted(conversion: Conversion, leaves: Mapping[str, Any]) -> Iterable[tuple[str, Tensor]]:
    files, names, save = conversion.files, conversion.names, conversion.save
    present = [leaves[name] for name in names if name in leaves]
    if save is None and conversion.load is not None:
        raise _not_back(conversion, "the rule has no save=, the function for the way back")
    if save is None:
        first, *others = present
        if not all(are_equal(to_host(first), to_host(other)) for other in others):
            raise _not_back(conversion, "the arrays differ, and the file has one for all of them")
        return [(file, Tensor(spec_of(first), partial(to_host, first))) for file in files]
    if len(present) < len(names):
        lacking = listed(name for name in names if name not in leaves)
        raise _not_back(conversion, f"{lacking} isn't selected, or isn't there")

    def made(number: int) -> np.ndarray[Any, Any]:
        return outputs(save, files, list(map(to_host, present)))[number]

    specs = map(spec_of, outputs(save, files, list(map(to_host, present))))
    return [
        (file, Tensor(spec, partial(made, number)))
        for number, (file, spec) in enumerate(zip(files, specs, strict=True))
    ]


def _not_back(conversion: Conversion, why: str) -> CheckpointError:
    return CheckpointError(
        f"asked to save {listed(conversion.names)} as {listed(conversion.files)}",
        why,
        "Rule(file, path, load=..., save=...), with a function for each way",
        "a lens that selects all of them, or none",
    )


@overload
def load(
    path: Files,
    like: T,
    *,
    lens: LensSpec = ...,
    rename: Rename = None,
    strict: Literal[True] = True,
) -> T: ...


@overload
def load(
    path: Files,
    like: T,
    *,
    lens: LensSpec = ...,
    rename: Rename = None,
    strict: Literal[False],
) -> tuple[T, Report]: ...


@user_facing
def load(
    path: Files,
    like: Any,
    *,
    lens: LensSpec = ...,
    rename: Rename = None,
    strict: bool = True,
) -> Any:
    """Loads a safetensors file into a tree: one that `save` has written, or somebody else.

    Arrays of an immutable tree are replaced in the tree that is given back. States, and the
    arrays of modules, are assigned where they are, all of them or none, and are the same
    objects in what is given back. Arrays go to the devices where those lie that they replace.

    Args:
        path: The file, or several, as those in which others save a large model.
        like: A tree of the structure that is wanted; in place of arrays, as in
            ``eqx.filter_eval_shape(build)``, it may have ``jax.ShapeDtypeStruct``, with a sharding.
        lens: What of the tree is loaded; the rest of it stays. What else the file has is then no
            error.
        rename: Other names in the file. ``{"encoder.**": "backbone.**"}`` says of names in the
            file which paths in the tree they mean, None for none; a `Rule` may have
            functions for arrays that differ. A name that no rule matches means itself.
        strict: Whether all has to fit, and each rule to hold for something in the file. Otherwise
            what fits is loaded.

    Returns:
        The tree; with ``strict=False``, the tree and a `Report` of what didn't fit.

    Raises:
        CheckpointError: Something is missing, unexpected, or of another shape or dtype, or a rule
            is unused; the message lists all of it, as does the error's ``report``, and nothing
            was assigned. Or it is no whole safetensors file. Python's numbers are missing in no
            file of others.
        CheckpointFileError: There is no such file, or it can't be read.
        PathError: The lens' pattern matches nothing.
        MissingPackageError: safetensors isn't installed: ``pip install 'statelens[io]'``.

    Example:
        >>> import tempfile, jax.numpy as jnp, statelens as sl
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = f"{folder}/model.safetensors"
        ...     sl.checkpoint.save(file, {"encoder": {"w": jnp.ones(2)}})
        ...     like = {"backbone": {"w": jnp.zeros(2)}, "head": jnp.zeros(1)}
        ...     rename = {"encoder.**": "backbone.**"}
        ...     sl.checkpoint.load(file, like, rename=rename, lens="backbone.**")["backbone"]
        {'w': Array([1., 1.], dtype=float32)}
    """
    paths = [path] if isinstance(path, (str, os.PathLike)) else list(path)
    with ExitStack() as opened:
        files = [opened.enter_context(File(each)) for each in paths]
        source = files[0] if len(files) == 1 else Joined(files)
        return load_from(source, like, lens, rename, strict=strict)


def load_from(source: Source, like: Any, spec: LensSpec, rename: Rename, *, strict: bool) -> Any:
    """Loads a tree from what has arrays by name; see `load`."""
    target = Target.of(like, spec)
    loading = Loading(source, target, rules_of(rename))
    report = loading.report()
    is_part = isinstance(like, BoundLens) or not is_all(spec)
    wrong = report
    if is_part:
        # What a rule has led astray may be what is missing.
        astray = tuple(name for name, _ in report.renamed) if report.missing else ()
        wrong = report._replace(unexpected=astray)
    if strict and not wrong.fits:
        raise refuse(source.name, wrong)
    filled = target.filled(loading.values())
    return filled if strict else (filled, report)
