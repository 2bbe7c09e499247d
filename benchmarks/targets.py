"""What statelens must reach: the largest ratio to the baseline, by part, work and library."""

ANY = "any"
"""Stands for every work of a part."""

TARGETS: dict[tuple[str, str, str], float] = {
    ("steps", "training step", "statelens"): 1.05,
    ("steps", "training step, donated", "statelens"): 1.05,
    ("evaluation", "evaluation", "statelens"): 1.05,
    ("functional", "training step", "statelens, unbound lens"): 0.6,
    ("functional", "training step of eqx.nn.MLP", "statelens, unbound lens"): 0.6,
    ("eager", "regressor", "statelens"): 1.05,
    ("eager", "regressor", "statelens, unbound lens"): 1.05,
    ("eager", "10-layer MLP", "statelens"): 1.05,
    ("eager", "10-layer MLP", "statelens, unbound lens"): 1.05,
    **{
        ("derivatives", f"{name}, {how}", "statelens"): 1.05
        for name in ("jacrev", "hessian", "hvp", "vjp")
        for how in ("jitted", "eager")
    },
    ("steps_per_call", "32 steps in one call", "statelens"): 0.1,
    ("first_call", "trace and lower", "statelens"): 1.10,
    ("first_call", "runs of the body", "statelens"): 1.0,
    ("loops", "scan of 1,000 steps", "statelens"): 1.02,
    ("importing", "import", "statelens"): 1.0,
    **{
        ("lenses", work, "statelens"): 1.5
        for work in ("partition", "combine", "get", "set", "update")
    },
    **{
        (part, ANY, library): limit
        for part, limit in (("memory", 1.02), ("programs", 1.0), ("real_models", 1.02))
        for library in ("statelens", "statelens, unbound lens")
    },
}


def target_of(part: str, work: str, library: str) -> float | None:
    """Gives the target of a row, if it has one."""
    return TARGETS.get((part, work, library), TARGETS.get((part, ANY, library)))
