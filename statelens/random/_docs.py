"""The docstrings of samplers, made from their parameters."""

import inspect
from collections.abc import Callable
from typing import Any

_EXAMPLES = {
    "alpha": "[1.0, 2.0]",
    "choice.a": "5",
    "cov": "[[1.0, 0.0], [0.0, 1.0]]",
    "d": "3",
    "logits": "[0.0, 1.0]",
    "low": "10",
    "lower": "-1.0",
    "multivariate_normal.mean": "[0.0, 1.0]",
    "n": "3",
    "p": "0.5",
    "pvals": "[0.2, 0.8]",
    "x": "[1.0, 2.0]",
}
"""What the examples pass for parameters without a default, where 1.0 wouldn't do."""

_MEANINGS = {
    "a": "The concentration.",
    "axis": "Along which axis.",
    "check_valid": "Whether to refuse parameters of no distribution, where their values are known.",
    "cov": "The covariance.",
    "df": "The degrees of freedom.",
    "dtype": "The dtype of the samples.",
    "high": "The upper bound.",
    "key": "A key or a seed to draw with instead; the state stays as it is.",
    "kw": "What else the sampler of ``jax.random`` takes.",
    "left": "The lower bound.",
    "lengths": "The shape of the samples, one number for each axis.",
    "loc": "Where the distribution lies.",
    "low": "The lower bound.",
    "lower": "The lower bound of the samples.",
    "mean": "The mean; for `lognormal`, of the logarithm.",
    "method": "How the covariance is taken apart: 'cholesky', 'eigh' or 'svd'.",
    "mode": "Where the density is highest.",
    "n": "The number of trials.",
    "p": "The probability of a success.",
    "pvals": "The probabilities; the last one is what the others leave.",
    "right": "The upper bound.",
    "scale": "How wide the distribution is.",
    "shape": "The shape of the samples; also as ``size=``.",
    "sigma": "The standard deviation of the logarithm.",
    "size": "The shape of the samples; by default that of the parameters together. Also "
    "as ``shape=``.",
    "unroll": "How many steps of the loop over outcomes are compiled as one.",
    "upper": "The upper bound of the samples.",
    "x": "An array.",
}
"""What to say of the parameters."""


def docstring(
    signature: inspect.Signature,
    sized: str | None,
    declared: Callable[..., Any],
    mirrored: str | None = None,
) -> str:
    """Writes what a sampler does, its parameters, and an example."""
    parameters = list(signature.parameters.values())
    summary = declared.__doc__ or f"Mirrors ``jax.random.{mirrored}``, with a key from the state."
    lines = [summary, "", "Args:"]
    for parameter in parameters:
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}
        shown = stars.get(parameter.kind, "") + parameter.name
        meaning = f"As in ``jax.random.{mirrored}``."
        if mirrored is None or parameter.name in (sized, "key"):
            meaning = _MEANINGS[parameter.name]
        lines.append(f"    {shown}: {meaning}")
    lines += ["", "Returns:", "    The samples.", *_example(declared.__name__, parameters)]
    return "\n".join(lines)


def _example(name: str, parameters: list[inspect.Parameter]) -> list[str]:
    needed = [
        p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    shown = [_EXAMPLES.get(f"{name}.{n}", _EXAMPLES.get(n, "1.0")) for n in needed]
    return [
        "",
        "Example:",
        "    >>> from statelens.random import RandomState",
        f"    >>> samples = RandomState(0).{name}({', '.join(shown)})",
    ]
