"""The notebooks run, print their figures, and hold the outputs of such a run."""

import importlib
import os
import re
import subprocess
import sys
from types import ModuleType

import pytest

from tests.helpers import REPOSITORY

NOTEBOOKS = REPOSITORY / "notebooks"
GRADIENTS = "01_state_aware_gradients"
LENSES = "02_lenses_on_equinox_models"
DERIVATIVES = "03_every_derivative"
PROGRAMS = "04_stateful_programs"
TRAINING = "05_training_with_optax"
FINE_TUNING = "06_fine_tuning_by_path"
ALL = [GRADIENTS, LENSES, DERIVATIVES, PROGRAMS, TRAINING, FINE_TUNING]


@pytest.fixture(scope="module")
def nbformat():
    pytest.importorskip("nbclient", reason="needs nbclient: pip install 'statelens[notebooks]'")
    return importlib.import_module("nbformat")


def run(*arguments, cwd):
    # In a process of its own, as a user runs it: pytest's settings stay out of the kernel.
    return subprocess.run(
        [sys.executable, str(NOTEBOOKS / "run.py"), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture(scope="module")
def executed(nbformat, tmp_path_factory):
    """Runs each notebook at most once; gives what was printed, and the executed notebook."""
    folder = tmp_path_factory.mktemp("executed")
    done = {}

    def execute(name):
        if name not in done:
            process = run(name, "--to", folder, cwd=folder)
            assert process.returncode == 0, process.stdout + process.stderr
            done[name] = process.stdout, nbformat.read(folder / f"{name}.ipynb", as_version=4)
        return done[name]

    return execute


def text_outputs(notebook):
    """Returns for each code cell the text that it printed and ended with."""
    return [
        "".join(
            output.get("text") or output["data"]["text/plain"]
            for output in cell.outputs
            if output.output_type == "execute_result" or output.get("name") == "stdout"
        )
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


FIGURES = [
    """\
loss: 5.5
('bias',) [-2.]
('weight',) [[-3.]]
""",
    """\
weight: [[0.3]]
bias: [0.2]
""",
    """\
loss: 5.5
weight gradient: [[-3.]]
metrics: {'mae': 2.0, 'mean_pred': 0.0}
""",
    """\
loss: 5.5
coefficient gradient: 0.0
('bias',) [-2.]
('weight',) [[-3.]]
""",
]


def test_the_figures_of_the_gradients_notebook(executed):
    printed, notebook = executed(GRADIENTS)
    shown = [text for text in text_outputs(notebook) if text.startswith(("loss: 5.5", "weight: "))]
    assert len(shown) == len(FIGURES)
    for text, figures in zip(shown, FIGURES, strict=True):
        assert text.startswith(figures)
        assert figures in printed


def test_the_gradients_notebook_holds_its_outputs(nbformat, executed):
    stored = nbformat.read(NOTEBOOKS / f"{GRADIENTS}.ipynb", as_version=4)
    assert text_outputs(stored) == text_outputs(executed(GRADIENTS)[1])


@pytest.mark.slow
def test_training_through_a_lens_lowers_the_loss_tenfold(executed):
    printed, _ = executed(LENSES)
    reports = re.findall(r"first loss (\S+), last loss (\S+), ratio (\S+)", printed)
    assert len(reports) >= 5
    for first, last, ratio in reports:
        assert float(ratio) >= 10
        assert float(first) >= 10 * float(last)
    assert re.findall(r"(\d+) arrays are untouched, (\d+) have changed", printed) == [
        ("4", "4"),
        ("5", "5"),
    ]


@pytest.mark.slow
def test_the_figures_of_the_derivatives_notebook(executed):
    printed, notebook = executed(DERIVATIVES)
    assert "wrong labels among the ten largest: 10 of 10" in printed
    assert plots(notebook) == 7


@pytest.mark.slow
def test_the_figures_of_the_programs_notebook(executed):
    printed, notebook = executed(PROGRAMS)
    assert "the body ran: 1 time" in printed
    assert plots(notebook) == 5


@pytest.mark.slow
def test_digits_are_told_apart_in_both_styles(executed):
    printed, notebook = executed(TRAINING)
    shares = re.findall(r"held out(?:, averaged weights)?: (\S+)%", printed)
    assert len(shares) == 4
    assert min(map(float, shares)) >= 97
    assert plots(notebook) == 1


def test_a_training_program_is_short(nbformat):
    """The lines of each style, imports and data among them, without what comes after the loop."""
    notebook = nbformat.read(NOTEBOOKS / f"{TRAINING}.ipynb", as_version=4)
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    head = sources[0]
    for program in (sources[1:3], sources[4:6]):
        assert program[1].startswith("done = sl.optim.fit(")
        loop = program[1].partition("\n)\n")[0] + "\n)"
        code = "\n".join([head, program[0], loop]).splitlines()
        assert sum(bool(line.strip()) for line in code) <= 55


@pytest.mark.slow
def test_a_saved_encoder_is_fine_tuned(executed):
    printed, notebook = executed(FINE_TUNING)
    first, thawed, adapted = (
        float(re.search(rf"{name}: (\S+)%", printed)[1])
        for name in ("all ten digits", "thawed", "adapters")
    )
    assert first < adapted < thawed
    assert thawed > 85
    assert plots(notebook) == 1


def plots(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.parametrize("name", ALL)
def test_the_stored_notebooks_were_run_from_top_to_bottom(nbformat, name):
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    kinds = ("stream", "execute_result", "display_data")
    assert all(output.output_type in kinds for output in outputs)
    assert all(output.get("name") != "stderr" for output in outputs)


def test_every_notebook_is_tested():
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == ALL


def test_an_error_in_a_cell_is_an_error_of_the_run(nbformat, tmp_path):
    broken = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell("print('before')"),
            nbformat.v4.new_code_cell("raise LookupError('on purpose')"),
        ]
    )
    runner = tmp_path / "run.py"
    runner.write_text((NOTEBOOKS / "run.py").read_text(encoding="utf-8"), encoding="utf-8")
    nbformat.write(broken, tmp_path / "broken.ipynb")
    process = subprocess.run([sys.executable, str(runner)], capture_output=True, text=True)
    assert process.returncode != 0
    assert "on purpose" in process.stderr


def test_a_notebook_runs_against_the_checkout_that_it_is_in(nbformat, tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "statelens").mkdir()
    (tmp_path / "statelens" / "__init__.py").write_text("here = 'this checkout'\n")
    runner = tmp_path / "notebooks" / "run.py"
    runner.write_text((NOTEBOOKS / "run.py").read_text(encoding="utf-8"), encoding="utf-8")
    cell = nbformat.v4.new_code_cell("import statelens\nprint(statelens.here)")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), runner.with_name("one.ipynb"))
    process = subprocess.run([sys.executable, str(runner)], capture_output=True, text=True)
    assert "this checkout" in process.stdout, process.stderr


def test_an_unknown_notebook_is_an_error_that_lists_those_there_are(nbformat, tmp_path):
    process = run("99", cwd=tmp_path)
    assert process.returncode != 0
    assert GRADIENTS in process.stderr


PORTED = """\
import jax.numpy as jnp
import statelens as brainstate
from statelens.transform import grad


class LinearRegressor(brainstate.nn.Module):
    def __init__(self, in_features, out_features=1):
        super().__init__()
        self.weight = brainstate.ParamState(jnp.zeros((in_features, out_features)))
        self.bias = brainstate.ParamState(jnp.zeros((out_features,)))

    def __call__(self, x):
        return x @ self.weight.value + self.bias.value


model = LinearRegressor(in_features=1)
xs = jnp.linspace(-1.0, 1.0, 5).reshape(-1, 1)
y_true = 3.0 * xs + 1.0


def mse_loss(x, target):
    return jnp.mean((model(x) - target) ** 2)


grads, loss = grad(
    mse_loss, grad_states=model.states(brainstate.ParamState), return_value=True
)(xs, y_true)
print("loss:", loss)
for path, gradient in grads.items():
    print(path, gradient)

for path, state in model.states(brainstate.ParamState).items():
    state.value = state.value - 0.1 * grads[path]
print("weight:", model.weight.value)
print("bias:", model.bias.value)

model = LinearRegressor(in_features=1)
calls = brainstate.State(jnp.zeros((), dtype=jnp.int32))


def loss_with_metrics(x, target):
    calls.value = calls.value + 1
    prediction = model(x)
    error = prediction - target
    metrics = {"mae": jnp.mean(jnp.abs(error)), "mean_pred": jnp.mean(prediction)}
    return jnp.mean(error**2), metrics


grads, loss, aux = brainstate.transform.grad(
    loss_with_metrics,
    grad_states=model.states(brainstate.ParamState),
    has_aux=True,
    return_value=True,
)(xs, y_true)
print("loss:", loss)
print("weight gradient:", grads[("weight",)])
print("metrics:", {name: float(value) for name, value in aux.items()})


def penalised_loss(l2_coeff, x, target):
    return mse_loss(x, target) + l2_coeff * jnp.sum(model.weight.value**2)


(state_grads, coeff_grad), loss = grad(
    penalised_loss,
    grad_states=model.states(brainstate.ParamState),
    argnums=0,
    return_value=True,
)(0.1, xs, y_true)
print("loss:", loss)
print("coefficient gradient:", coeff_grad)
for path, gradient in state_grads.items():
    print(path, gradient)
assert all(isinstance(state, brainstate.State) for state in model.states().values())
assert calls.value == 1
"""


def test_a_ported_program_runs_with_the_import_line_changed(capsys):
    program = ModuleType("ported")
    exec(compile(PORTED, "ported.py", "exec"), vars(program))
    assert capsys.readouterr().out == "".join(FIGURES)
