"""What statelens must reach: the largest ratio to the baseline, by part, work and library."""

ANY = "any"
"""Stands for every work of a part."""

STATES, LENS = "statelens", "statelens, unbound lens"

A_CALL = {0: 1.15, 100: 1.10}
"""Of a call over small parameters: what is allowed from so many of them on."""

TARGETS: dict[tuple[str, str, str], float | dict[int, float]] = {
    ("real_models", ANY, STATES): 1.02,
    ("real_models", ANY, LENS): 1.02,
    ("training", ANY, STATES): 1.15,
    ("training", ANY, LENS): 1.25,
    **{
        ("training", f"training step, {work}", library): 1.05
        for work in ("MLP", "12-layer transformer")
        for library in (STATES, LENS)
    },
    **{
        ("checkpoints", work, library): 1.1
        for work in ("save", "load")
        for library in (STATES, LENS)
    },
    ("memory", ANY, STATES): 1.02,
    ("memory", ANY, LENS): 1.02,
    ("programs", ANY, STATES): 1.0,
    ("programs", ANY, LENS): 1.0,
    ("importing", "import", STATES): 1.0,
    ("dispatch", "training step", STATES): A_CALL,
    ("dispatch", "training step, donated", STATES): A_CALL,
    ("dispatch", "evaluation", STATES): A_CALL,
    ("attribute", ANY, STATES): 1.15,
    ("functional", "training step", LENS): 0.65,
    ("functional", "training step of eqx.nn.MLP", LENS): 0.65,
    ("loops", "32 steps in one call", STATES): 0.1,
    ("loops", "scan of 1,000 steps", STATES): 1.02,
    ("first_call", "trace and lower", STATES): 1.10,
    ("first_call", "runs of the body", STATES): 1.0,
    **{
        ("eager", work, library): 1.05
        for work in ("regressor", "10-layer MLP")
        for library in (STATES, LENS)
    },
    **{
        ("derivatives", f"{name}, {how}", STATES): 1.05
        for name in ("jacrev", "hessian", "hvp", "vjp")
        for how in ("jitted", "eager")
    },
}


def target_of(part: str, work: str, library: str, size: int | None = None) -> float | None:
    """Gives the target of a row, if it has one."""
    found = TARGETS.get((part, work, library), TARGETS.get((part, ANY, library)))
    if isinstance(found, dict):
        return found[max(least for least in found if least <= (size or 0))]
    return found
