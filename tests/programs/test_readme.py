"""README.md says what is true: its Python runs, and prints what it is said to print."""

import contextlib
import io
import re
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import statelens as sl
from tests.helpers import REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def python_blocks() -> list[tuple[str, str]]:
    """Returns each Python block with the text block that follows it, or an empty text."""
    blocks = FENCE.findall(README)
    following = [*blocks[1:], ("", "")]
    return [
        (code, text if kind == "text" else "")
        for (language, code), (kind, text) in zip(blocks, following, strict=True)
        if language == "python"
    ]


def test_readme_code_prints_what_it_shows():
    blocks = python_blocks()
    assert [bool(shown) for _, shown in blocks] == [True, True, True, False]
    names = {"__name__": "readme"}
    for code, shown in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "README.md", "exec"), names)
        assert printed.getvalue() == shown


TABLES = README[README.index("## Every name") : README.index("## For contributors")]
ROWS = re.findall(r"^\| \[`([\w.]+)`\]\(\S+\) \| (.*?) \| (.*?) \| .* \|$", TABLES, re.MULTILINE)
CELLS = [cell.strip("`") for _, *cells in ROWS for cell in cells if cell]


@pytest.fixture(scope="module")
def scope():
    imports, *_, definitions = [code for code, _ in python_blocks()]
    names = {"__name__": "readme"}
    key = sl.random.get_key()
    exec(imports.split("\n\n")[0] + "\n" + definitions, names)
    yield names
    sl.random.set_key(key)


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_of_the_tables_runs(cell, scope):
    eval(cell, dict(scope))


def test_the_tables_have_every_public_name():
    named = {name for name, *_ in ROWS} | set(re.findall(r"[`.](\w+)`", TABLES))
    public = {
        *sl.__all__,
        *sl.transform.__all__,
        *sl.checkpoint.__all__,
        "Module",
        "RandomState",
        "DEFAULT",
    }
    assert public - named == {"nn", "transform"}
    functions = {name for name in sl.optim.__all__ if name[0].islower()}
    assert {f"optim.{name}" for name in functions} <= named


def test_readme_patterns_are_lenses():
    start = README.index("| Pattern |")
    column = re.findall(r"^\| (`.*`) \| .* \|$", README[start : start + 2000], re.MULTILINE)
    patterns = [pattern for cell in column for pattern in re.findall(r"`([^`]+)`", cell)]
    assert len(patterns) >= 14
    for pattern in patterns:
        selection = eval(pattern, {"sl": sl}) if pattern.startswith("sl.") else sl.lens(pattern)
        assert isinstance(selection, sl.Lens), pattern


@pytest.mark.parametrize(
    "path", re.findall(r"\]\(([^)]+)\)", README), ids=lambda path: Path(path).name
)
def test_readme_links_exist(path):
    name, _, heading = path.partition("#")
    file = REPOSITORY / name
    assert file.exists()
    headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE) if heading else [""]
    assert heading in {text.lower().replace(" ", "-") for text in headings}


def test_readme_commands_are_single_lines():
    commands = re.findall(r"^<!-- command: (\w+) -->\n```bash\n(.*)\n```$", README, re.MULTILINE)
    assert [name for name, _ in commands] == ["notebook", "tests"]
    assert all(command.startswith("python3 -m venv .venv && ") for _, command in commands)


def test_the_traced_program_is_the_one_split_by_hand():
    model = eqx.nn.MLP(4, 2, 32, 3, key=jax.random.key(0))
    arrays, static = eqx.partition(model, eqx.is_array)
    x, y = jnp.ones((8, 4)), jnp.zeros((8, 2))
    head = sl.lens("layers[-1].**")
    runs = []

    def loss(model, x, y):
        runs.append(1)
        return jnp.mean((jax.vmap(model)(x) - y) ** 2)

    def ours(arrays, x, y):
        return sl.grad(loss, grad_states=head)(eqx.combine(arrays, static), x, y)

    def by_hand(arrays, x, y):
        model = eqx.combine(arrays, static)
        focus, rest = eqx.partition(model, head.mask(model))
        return jax.grad(lambda focus: loss(eqx.combine(focus, rest), x, y))(focus)

    traced = jax.make_jaxpr(ours)(arrays, x, y)
    assert len(runs) == 1
    assert str(traced) == str(jax.make_jaxpr(by_hand)(arrays, x, y))
