"""`ProgressBar`: what is drawn for loops of JAX, however they are run."""

import builtins
import functools
import io
import re
import threading

import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import pytest

import statelens as sl

tqdm = pytest.importorskip("tqdm.auto")
ProgressBar = sl.transform.ProgressBar


class Drawn:
    """Bars that are drawn into a text, and what became of them."""

    def __init__(self, monkeypatch):
        self.file = io.StringIO()
        self.bars = bars = []

        class Recorded(tqdm.tqdm):
            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                self.closed = 0
                bars.append(self)

            def close(self):
                self.closed = getattr(self, "closed", 0) + 1
                super().close()

        monkeypatch.setattr(tqdm, "tqdm", Recorded)

    def bar(self, *args, **kwargs):
        return ProgressBar(*args, **{"file": self.file, "mininterval": 0, **kwargs})

    @property
    def text(self):
        jax.effects_barrier()
        return self.file.getvalue()

    @property
    def ends(self):
        jax.effects_barrier()
        assert all(bar.closed for bar in self.bars)
        return [bar.n for bar in self.bars]

    @property
    def steps(self):
        """The step numbers in the order in which they were drawn."""
        found = re.findall(r"(\d+)(?:/\d+|it) \[", self.text)
        return [int(n) for k, n in enumerate(found) if k == 0 or n != found[k - 1]]


@pytest.fixture
def drawn(monkeypatch):
    return Drawn(monkeypatch)


def scanned(bar, length, **options):
    def run(x):
        progress = bar.start(length, **options)

        def body(carry, step):
            new = jnp.sin(carry)
            progress.tick(step, x=step, carry=new, y=carry)
            return new, carry

        return jax.lax.scan(body, x, jnp.arange(length))[0]

    return run


def counted(bar, total=None):
    """Adds ones until 100 is reached."""

    def run(x):
        progress = bar.start(total)

        def body(carry):
            step, value = carry
            progress.tick(step, carry=value + 1)
            return step + 1, value + 1

        steps, value = jax.lax.while_loop(lambda c: c[1] < 100, body, (0, x))
        progress.done(steps)
        return value

    return run


class TestScan:
    @pytest.mark.parametrize(
        ("length", "freq", "steps"),
        [
            (20, 5, [1, 5, 10, 15, 20]),
            (12, 5, [1, 5, 10, 12]),
            (3, 5, [1, 3]),
            (5, 5, [1, 5]),
            (1, 5, [1]),
            (1, 1, [1]),
            (4, 1, [1, 2, 3, 4]),
        ],
    )
    def test_draws_every_so_many_steps(self, drawn, length, freq, steps):
        scanned(drawn.bar(freq), length)(1.0)
        assert drawn.steps == steps
        assert drawn.ends == [length]
        assert f"100%|##########| {length}/{length} " in drawn.text

    @pytest.mark.parametrize(
        ("length", "count", "updates"), [(100, 4, 4), (103, 4, 4), (7, 10, 7), (1000, None, 100)]
    )
    def test_draws_so_many_times(self, drawn, length, count, updates):
        scanned(drawn.bar(count=count), length)(1.0)
        assert len([n for n in drawn.steps if n > 1 or length < 100]) == updates
        assert drawn.ends == [length]

    def test_no_steps_no_bar(self, drawn):
        scanned(drawn.bar(5), 0)(1.0)
        assert drawn.ends == []

    def test_each_run_of_a_compiled_loop_has_its_bar(self, drawn):
        run = jax.jit(scanned(drawn.bar(5), 12))
        for number in range(1, 4):
            run(1.0)
            assert drawn.ends == [12] * number
        assert drawn.steps == [1, 5, 10, 12] * 3

    @pytest.mark.parametrize("desc", [None, ("{c}", lambda at: {"c": at["carry"]})])
    @pytest.mark.parametrize(
        "outer",
        [
            jax.jit,
            jax.grad,
            jax.hessian,
            lambda f: jax.jit(jax.value_and_grad(f)),
            lambda f: lambda x: jax.jvp(f, (x,), (1.0,)),
            lambda f: lambda x: jax.vmap(f)(x * jnp.ones(3)),
            lambda f: lambda x: jax.vmap(jax.vmap(f))(x * jnp.ones((2, 3))),
            lambda f: lambda x: jax.jit(jax.vmap(jax.grad(f)))(x * jnp.ones(3)),
            lambda f: jax.grad(lambda x: jax.vmap(f)(x * jnp.ones(3)).sum()),
        ],
        ids=[
            "jit",
            "grad",
            "hessian",
            "jit_grad",
            "jvp",
            "vmap",
            "vmap2",
            "vmap_grad",
            "grad_vmap",
        ],
    )
    def test_one_bar_within_other_transforms(self, drawn, outer, desc):
        got = outer(scanned(drawn.bar(5, desc=desc), 12))(1.0)
        assert drawn.steps == [1, 5, 10, 12]
        assert drawn.ends == [12]
        plain = outer(lambda x: jax.lax.scan(lambda c, _: (jnp.sin(c), c), x, None, length=12)[0])
        assert all(
            jnp.allclose(a, b, rtol=1e-5)
            for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(plain(1.0)), strict=True)
        )

    def test_a_checkpointed_program_runs_and_draws_again(self, drawn):
        jax.grad(jax.checkpoint(scanned(drawn.bar(5), 12)))(1.0)
        assert drawn.ends == [12, 12]

    def test_replays_are_not_drawn(self, drawn):
        def run(x):
            progress = drawn.bar(5).start(20, replays=True)

            def body(carry, step):
                progress.tick(step)
                return jnp.sin(carry), None

            xs = jnp.arange(20)
            return eqxi.scan(body, x, xs, kind="checkpointed", checkpoints=3)[0]

        slope = jax.jit(jax.vmap(jax.grad(run)))
        for number in (1, 2):
            slope(jnp.ones(3))
            assert drawn.ends == [20] * number
        assert drawn.steps == [1, 5, 10, 15, 20] * 2


class TestWhile:
    def test_of_unknown_length(self, drawn):
        jax.jit(counted(drawn.bar(5)))(77.0)
        assert drawn.steps == [1, 5, 10, 15, 20, 23]
        assert drawn.ends == [23]

    def test_that_ends_before_the_most_steps(self, drawn):
        counted(drawn.bar(5), 50)(77.0)
        assert drawn.steps == [1, 5, 10, 15, 20, 23]
        assert drawn.ends == [23]
        assert "23/50" in drawn.text

    def test_that_makes_all_steps(self, drawn):
        counted(drawn.bar(5), 23)(77.0)
        assert drawn.ends == [23]
        assert drawn.bars[0].closed == 1

    def test_without_steps(self, drawn):
        counted(drawn.bar(5))(200.0)
        assert drawn.ends == []

    def test_updates_get_rarer_where_the_length_is_unknown(self, drawn):
        counted(drawn.bar())(100.0 - 10_000)
        assert drawn.ends == [10_000]
        assert drawn.steps[:100] == list(range(1, 101))
        later = [b - a for a, b in zip(drawn.steps, drawn.steps[1:], strict=False)]
        assert max(later) == 128
        assert len(later) < 64 * 9

    @pytest.mark.parametrize("desc", [None, ("{c}", lambda at: {"c": at["carry"]})])
    def test_lanes_of_different_lengths(self, drawn, desc):
        run = jax.jit(jax.vmap(counted(drawn.bar(5, desc=desc))))
        for number in (1, 2):
            run(jnp.array([200.0, 77.0, 90.0]))
            assert drawn.ends == [23] * number
        assert drawn.steps == [1, 5, 10, 15, 20, 23] * 2


class TestSeveral:
    def test_nested(self, drawn):
        inner = scanned(drawn.bar(2, desc="inner"), 4)

        def outer(x):
            progress = drawn.bar(1, desc="outer").start(3)

            def body(carry, step):
                carry = inner(carry)
                progress.tick(step)
                return carry, None

            return jax.lax.scan(body, x, jnp.arange(3))[0]

        jax.jit(outer)(1.0)
        assert sorted(drawn.ends) == [3, 4, 4, 4]
        assert drawn.text.count("outer: 100%") >= 1

    def test_side_by_side_with_one_bar(self, drawn):
        bar = drawn.bar(5)
        jax.jit(lambda x: scanned(bar, 12)(x) + scanned(bar, 7)(x))(1.0)
        assert sorted(drawn.ends) == [7, 12]

    def test_one_program_in_several_threads(self, drawn):
        run = jax.jit(scanned(drawn.bar(50), 5000))
        threads = [threading.Thread(target=lambda: run(1.0).block_until_ready()) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert drawn.ends == [5000] * 3

    def test_a_bar_that_an_error_stopped_is_closed_by_the_next_run(self, drawn):
        def fail(step):
            if fail.at == step:
                raise RuntimeError("stop here")

        fail.at = 6

        @jax.jit
        def run(x):
            progress = drawn.bar(2).start(10)

            def body(carry, step):
                progress.tick(step)
                jax.debug.callback(fail, step)
                return carry + 1, None

            return jax.lax.scan(body, x, jnp.arange(10))[0]

        with pytest.raises(jax.errors.JaxRuntimeError, match="stop here"):
            run(1.0).block_until_ready()
        assert not drawn.bars[0].closed
        fail.at = -1
        run(1.0)
        assert drawn.ends[1:] == [10]
        assert drawn.ends[0] < 10


class TestDescription:
    def test_text(self, drawn):
        scanned(drawn.bar(5, desc="training"), 12)(1.0)
        assert "training: 100%" in drawn.text

    def test_function(self, drawn):
        seen = []

        def describe(at):
            seen.append(set(at))
            return {"i": at["i"], "c": at["carry"], "name": "net", "d": at["y"] - at["carry"]}

        scanned(drawn.bar(5, desc=("{name} {i} {c:.3f} {d:.1f}", describe)), 12)(1.0)
        assert all(keys == {"i", "x", "carry", "y"} for keys in seen)
        for text in ("net 0 0.841 0.2: ", "net 4 0.587 0.0: ", "net 11 0.432 0.0: 100%"):
            assert text in drawn.text

    def test_arrays_keys_and_what_is_no_array(self, drawn):
        bar = drawn.bar(2, desc=("{v} {k}", lambda at: {"v": at["x"] * 2, "k": at["y"]}))
        progress = bar.start(2)

        def body(carry, step):
            key, total = carry
            progress.tick(step, carry={"key": key, "f": jnp.sin}, x=jnp.arange(2), y=None)
            return (key, total), None

        jax.lax.scan(body, (jax.random.key(0), 0.0), jnp.arange(2))
        assert "[0 2] None: 100%" in drawn.text

    def test_under_vmap_is_of_the_first_lane(self, drawn):
        bar = drawn.bar(5, desc=("c={c:.0f}", lambda at: {"c": at["carry"]}))
        jax.vmap(counted(bar))(jnp.array([90.0, 77.0]))
        assert "c=91: " in drawn.text

    @pytest.mark.parametrize(
        ("answer", "match"),
        [({"loss": 1}, r"its function returned \['loss'\]"), (3, "its function returned a int")],
    )
    def test_that_cannot_be_filled_in(self, drawn, answer, match):
        bar = drawn.bar(5, desc=("{i} {x[0]}", lambda at: answer))
        with pytest.raises(sl.ArgumentError, match=rf"(?s){match}.*the keys \['i', 'x'\]"):
            scanned(bar, 12)(1.0)


def test_disabled_draws_nothing(drawn):
    scanned(drawn.bar(5, disable=True), 12)(1.0)
    counted(drawn.bar(5, disable=True))(77.0)
    assert drawn.text == ""


def test_a_pipe_gets_lines_that_tqdm_writes(capfd):
    scanned(ProgressBar(5), 12)(1.0)
    jax.effects_barrier()
    assert "12/12" in capfd.readouterr().err


class TestArguments:
    @pytest.mark.parametrize(
        ("options", "error", "match"),
        [
            ({"freq": 5, "count": 5}, sl.ArgumentError, "freq=5 and count=5"),
            ({"freq": 0}, sl.ArgumentError, "freq=0"),
            ({"count": -1}, sl.ArgumentError, "count=-1"),
            ({"freq": 2.0}, sl.ArgumentTypeError, r"freq=2\.0"),
            ({"freq": True}, sl.ArgumentTypeError, "freq=True"),
            ({"count": "many"}, sl.ArgumentTypeError, "count='many'"),
            ({"desc": 3}, sl.ArgumentTypeError, "desc=3"),
            ({"desc": ("text",)}, sl.ArgumentTypeError, "neither a text nor a text with a func"),
            ({"desc": ("text", "text")}, sl.ArgumentTypeError, "neither a text nor"),
            ({"colr": "red"}, sl.ArgumentError, "(?s)colr='red'.*tqdm has no such option"),
            ({"total": 5}, sl.ArgumentError, "(?s)total=5.*the loop says what is counted"),
        ],
    )
    def test_that_are_refused(self, options, error, match):
        with pytest.raises(error, match=match):
            ProgressBar(**options)

    def test_shorthand(self, drawn, capfd):
        loop = functools.partial(sl.transform.for_loop, jnp.sin, jnp.arange(20.0))
        loop(pbar=None)
        assert drawn.ends == []
        loop(pbar=drawn.bar(5))
        assert drawn.ends == [20]
        loop(pbar=5)
        assert drawn.ends == [20, 20]
        assert drawn.steps == [5, 10, 15, 20]
        assert "20/20" in capfd.readouterr().err
        with pytest.raises(sl.ArgumentError, match="pbar=0"):
            loop(pbar=0)
        with pytest.raises(sl.ArgumentTypeError, match="pbar='yes'"):
            loop(pbar="yes")

    def test_equal_bars_are_one_key(self):
        assert {ProgressBar(3, unit="s"), ProgressBar(3, unit="s")} == {ProgressBar(3, unit="s")}
        assert ProgressBar(3) != ProgressBar(4)
        assert ProgressBar(3) != ProgressBar(3, unit="s")
        assert ProgressBar(3) != 3
        assert repr(ProgressBar(3, desc="a", unit="s")) == (
            "ProgressBar(freq=3, desc='a', unit='s')"
        )

    def test_without_tqdm(self, monkeypatch):
        plain = builtins.__import__

        def no_tqdm(name, *args, **kwargs):
            if name.startswith("tqdm"):
                raise ImportError(name)
            return plain(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", no_tqdm)
        with pytest.raises(ImportError, match=r"pip install 'statelens\[progress\]'") as caught:
            ProgressBar(3)
        assert isinstance(caught.value, sl.StateLensError)
