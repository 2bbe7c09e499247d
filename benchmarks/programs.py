"""What program a function becomes: its StableHLO operations, and what they cost.

Names are made canonical: a variable is known by its type alone, and a function that is called
within the program is put in the place of the call. So two programs are equal here when they
have the same operations, with the same attributes and types and each as often, take and give
the same arrays, donate the same of them, and cost the same once compiled. The order doesn't
count.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple


class Program(NamedTuple):
    """A program, by what it does.

    Attributes:
        operations: How often it has each operation: its name, attributes and types. What it
            takes and gives is among them.
        flops: By the compiler's count.
        bytes: What it reads and writes, by the compiler's count.
    """

    operations: Counter[str]
    flops: float
    bytes: float

    @property
    def counts(self) -> Counter[str]:
        """How often it has each kind of operation, by the name alone."""
        found: Counter[str] = Counter()
        for operation, number in self.operations.items():
            name = operation.split()[0]
            if name not in ("input", "output", "donated"):
                found[name] += number
        return found


def program(function: Any, *args: Any) -> Program:
    """Lowers and compiles a jitted function for arguments.

    Args:
        function: What `jax.jit` or `statelens.jit` has given.
        *args: Its arguments.

    Returns:
        Its program.
    """
    lowered = function.lower(*args)
    cost = lowered.compile().cost_analysis()
    return Program(operations(lowered), cost.get("flops", 0.0), cost.get("bytes accessed", 0.0))


def operations(lowered: Any) -> Counter[str]:
    """Counts the operations of a lowered function, with those of the functions it calls."""
    module = lowered.compiler_ir("stablehlo")
    functions = {f.attributes["sym_name"].value: f for f in module.body.operations}
    main = functions["main"]
    return Counter([*_signature(main), *_inside(main.operation, functions)])


def _inside(operation: Any, functions: dict[str, Any]) -> Iterator[str]:
    for region in operation.regions:
        for block in region.blocks:
            for inner in block.operations:
                yield from _operation(inner.operation, functions)


def _operation(operation: Any, functions: dict[str, Any]) -> Iterator[str]:
    if operation.name == "func.call":
        yield from _inside(functions[operation.attributes["callee"].value].operation, functions)
    elif not operation.name.endswith("return"):
        attributes = ", ".join(f"{k} = {v}" for k, v in sorted(operation.attributes.items()))
        takes = ", ".join(str(value.type) for value in operation.operands)
        gives = ", ".join(str(value.type) for value in operation.results)
        yield f"{operation.name} {{{attributes}}} ({takes}) -> ({gives})"
        yield from _inside(operation, functions)


def _signature(main: Any) -> Iterator[str]:
    """Lists what a program takes and gives, and what it takes to reuse the memory."""
    for argument, attributes in zip(main.arguments, main.arg_attrs, strict=True):
        is_donated = "tf.aliasing_output" in attributes or "jax.buffer_donor" in attributes
        yield f"{'donated' if is_donated else 'input'} {argument.type}"
    for result in main.type.results:
        yield f"output {result}"


def difference(ours: Program, theirs: Program) -> str:
    """Says in what two programs differ.

    Args:
        ours: A program.
        theirs: What it is held against.

    Returns:
        A line for each difference; nothing if there is none.
    """
    more, fewer = ours.operations - theirs.operations, theirs.operations - ours.operations
    lines = [f"+{number} {operation}" for operation, number in sorted(more.items())]
    lines += [f"-{number} {operation}" for operation, number in sorted(fewer.items())]
    lines += [
        f"{what}: {own:,.0f}, not {other:,.0f}"
        for what, own, other in (
            ("flops", ours.flops, theirs.flops),
            ("bytes", ours.bytes, theirs.bytes),
        )
        if own != other
    ]
    return "\n".join(lines)
