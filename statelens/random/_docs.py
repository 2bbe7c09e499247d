"""The docstrings of samplers, made from their parameters."""

import inspect
from collections.abc import Callable
from typing import Any

import jax

_EXAMPLES = {
    "alpha": "[1.0, 2.0]",
    "choice.a": "5",
    "cov": "[[1.0, 0.0], [0.0, 1.0]]",
    "d": "3",
    "left": "0.0",
    "logits": "[0.0, 1.0]",
    "low": "10",
    "lower": "-1.0",
    "mode": "0.5",
    "multinomial.p": "[0.2, 0.8]",
    "multivariate_normal.mean": "[0.0, 1.0]",
    "n": "3",
    "p": "0.5",
    "x": "[1.0, 2.0]",
}
"""What the examples pass for parameters without a default, where 1.0 wouldn't do."""

_MEANINGS = {
    "a": "The concentration.",
    "axis": "Along which axis.",
    "dtype": "The dtype of the samples.",
    "high": "The upper bound.",
    "kw": "``dtype``, and what else the sampler of ``jax.random`` takes.",
    "lengths": "The shape of the samples, one number for each axis.",
    "loc": "Where the distribution lies.",
    "low": "The lower bound.",
    "lower": "The lower bound of the samples.",
    "mean": "The mean of the logarithm.",
    "scale": "How wide the distribution is.",
    "shape": "The shape of the samples; also as ``size=``.",
    "sigma": "The standard deviation of the logarithm.",
    "size": "The shape of the samples; by default that of the parameters together. Also "
    "as ``shape=``.",
    "upper": "The upper bound of the samples.",
    "x": "An array.",
}
"""What to say of the parameters."""


def docstring(
    name: str, draw: Callable[..., Any], signature: inspect.Signature, sized: str | None
) -> str:
    """Writes what a sampler does, its parameters, and an example."""
    parameters = list(signature.parameters.values())
    is_of_jax = getattr(jax.random, draw.__name__, None) is draw
    mirrored = draw.__name__ if is_of_jax else None
    summary = draw.__doc__ or ""
    if mirrored is not None:
        summary = f"Mirrors ``jax.random.{mirrored}``, with a key from the state."
    lines = [summary, "", "Args:"]
    for parameter in parameters:
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}
        shown = stars.get(parameter.kind, "") + parameter.name
        meaning = f"As in ``jax.random.{mirrored}``."
        if mirrored is None or parameter.name == sized:
            meaning = _MEANINGS[parameter.name]
        lines.append(f"    {shown}: {meaning}")
    lines.append("    key: A key or a seed to draw with instead; the state stays as it is.")
    lines += ["", "Returns:", "    The samples.", *_example(name, mirrored, parameters)]
    return "\n".join(lines)


def _example(name: str, mirrored: str | None, parameters: list[inspect.Parameter]) -> list[str]:
    needed = [
        p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    shown = [_EXAMPLES.get(f"{mirrored}.{n}", _EXAMPLES.get(n, "1.0")) for n in needed]
    return [
        "",
        "Example:",
        "    >>> from statelens.random import RandomState",
        f"    >>> samples = RandomState(0).{name}({', '.join(shown)})",
    ]
