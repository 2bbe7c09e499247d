"""Files are written whole or not at all, and what is no whole file is refused."""

import contextlib
import os
import signal
import stat
import subprocess
import sys
import textwrap
import time

import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl
from statelens.checkpoint import load, save
from tests.helpers import Affine


@pytest.fixture
def file(tmp_path):
    return tmp_path / "model.safetensors"


def tree(seed):
    return {"a": np.full(3, float(seed)), "b": np.full((2, 2), seed, np.int32), "step": seed}


def content(header, data=b"", length=None):
    header = header.encode() if isinstance(header, str) else header
    return (len(header) if length is None else length).to_bytes(8, "little") + header + data


# Writing.


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(sl.CheckpointFileError, match=r"(?s)No such file.*os\.makedirs") as error:
        save(tmp_path / "no" / "a.safetensors", {})
    assert isinstance(error.value, OSError)
    assert isinstance(error.value, sl.StateLensError)


def test_a_folder_in_place_of_the_file(tmp_path):
    with pytest.raises(sl.CheckpointFileError, match="is a folder"):
        save(tmp_path, {})
    with pytest.raises(sl.CheckpointFileError, match=r"(?s)asked to load .*"):
        load(tmp_path, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0 and not os.path.exists("/proc"), reason="root may write")
def test_a_folder_that_may_not_be_written_to():
    # /proc refuses root too.
    with pytest.raises(sl.CheckpointFileError, match=r"asked to save /proc/a\.safetensors"):
        save("/proc/a.safetensors", tree(1))


def test_a_link_stays_one(file, tmp_path):
    link = tmp_path / "latest.safetensors"
    link.symlink_to(file)
    save(link, tree(1))  # to a file that isn't there yet
    save(link, tree(2))
    assert link.is_symlink()
    assert load(file, tree(0))["step"] == 2
    assert sorted(os.listdir(tmp_path)) == ["latest.safetensors", "model.safetensors"]


def test_a_file_has_the_mode_that_others_have_and_keeps_its_own(file, tmp_path):
    (tmp_path / "other").touch()
    save(file, tree(1))
    assert file.stat().st_mode == (tmp_path / "other").stat().st_mode
    file.chmod(0o640)
    save(file, tree(2))
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_a_full_disk_leaves_the_old_file(file, tmp_path, small_disk):
    save(file, tree(1))
    with pytest.raises(sl.CheckpointFileError, match="File too large") as error:
        save(file, {**tree(2), "big": np.ones(10_000)})
    assert error.value.errno is not None
    assert load(file, tree(0))["step"] == 1
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_an_error_midway_leaves_the_old_file(file, tmp_path):
    save(file, tree(1))
    rule = sl.checkpoint.Rule("a", "a", load=lambda a: a, save=_counted(lambda n, a: a[: 3 - n]))
    with pytest.raises(sl.CheckpointError, match="functions of rules that give the same each time"):
        save(file, tree(2), rename=rule)
    assert load(file, tree(0))["step"] == 1
    assert os.listdir(tmp_path) == ["model.safetensors"]


def _counted(function):
    calls = []

    def run(*args):
        calls.append(1)
        return function(len(calls) - 1, *args)

    return run


# A process that has imported all, and starts one that saves on and on, for each line that it reads.
SAVING = """
import os, sys, numpy as np
from statelens.checkpoint import save
for line in sys.stdin:
    child = os.fork()
    if not child:
        for step in range(1, 1_000_000):
            tree = {"w": np.full(200_000, step), "step": step, "v": np.full(1000, step)}
            save(sys.argv[1], tree)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("killed", flush=True)
"""


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_the_old_file_or_the_new_one(file, tmp_path):
    wait = np.random.default_rng(0).uniform(0.005, 0.05, 50)
    like = {"w": np.zeros(200_000, int), "step": 0, "v": np.zeros(1000, int)}
    midway = 0
    command = [sys.executable, "-W", "ignore", "-c", SAVING, str(file)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True) as parent:
        for seconds in wait:
            print("go on", file=parent.stdin, flush=True)
            child = int(parent.stdout.readline())
            time.sleep(seconds)
            os.kill(child, signal.SIGKILL)
            assert parent.stdout.readline() == "killed\n"
            if file.exists():
                loaded = load(file, like)
                assert (loaded["w"] == loaded["step"]).all()
                assert (loaded["v"] == loaded["step"]).all()
            begun = [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]
            midway += len(begun) > 0
            for name in begun:
                os.unlink(tmp_path / name)
    assert file.exists()
    assert midway > 10, midway


# Reading.

ENTRY = '"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'

BROKEN = {
    "empty": b"",
    "short": b"\x01\x02",
    "garbage": bytes(range(256)) * 4,
    "no header": (100).to_bytes(8, "little"),
    "a header beyond the file": content(f"{{{ENTRY}}}", bytes(8), length=2**20),
    "an oversized header": content(f"{{{ENTRY}}}", bytes(8), length=2**63),
    "no JSON": content("{", bytes(8)),
    "a list": content("[]"),
    "no text": content(b"\xff\xfe{}"),
    "too little data": content(f"{{{ENTRY}}}", bytes(4)),
    "too much data": content(f"{{{ENTRY}}}", bytes(12)),
    "an unknown dtype": content(ENTRY.join("{}").replace("F32", "F33"), bytes(8)),
    "another dtype": content(ENTRY.join("{}").replace("F32", "F64"), bytes(8)),
    "another shape": content(ENTRY.join("{}").replace("[2]", "[3]"), bytes(8)),
    "a negative shape": content(ENTRY.join("{}").replace("[2]", "[-2]"), bytes(8)),
    "a huge shape": content(ENTRY.join("{}").replace("[2]", f"[{2**62},{2**62}]"), bytes(8)),
    "overlapping": content(f"{{{ENTRY},{ENTRY.replace('a', 'b', 1)}}}", bytes(8)),
    "a hole": content(ENTRY.join("{}").replace("[0,8]", "[4,12]"), bytes(12)),
    "offsets that go back": content(ENTRY.join("{}").replace("[0,8]", "[8,0]"), bytes(8)),
    "metadata that isn't text": content('{"__metadata__":{"a":1}}'),
    "notes that can't be read": content('{"__metadata__":{"statelens":"?"}}'),
    "a note that is a list": content(
        f'{{"__metadata__":{{"statelens":"{{\\"dtypes\\":{{\\"a\\":[]}}}}"}},{ENTRY}}}', bytes(8)
    ),
    "notes of another form": content('{"__metadata__":{"statelens":"[1]"}}'),
}
for note in ("complex64", "key<fry>", "int4", "float8_e3m4", "object", "nothing"):
    notes = f'{{\\"dtypes\\":{{\\"a\\":\\"{note}\\"}}}}'
    header = f'{{"__metadata__":{{"statelens":"{notes}"}},{ENTRY}}}'
    header = header.replace('"shape":[2]', '"shape":[2,1]')
    BROKEN[f"a note of {note}"] = content(header, bytes(8))


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_no_whole_file_is_refused_and_the_model_is_as_it_was(file, case):
    file.write_bytes(BROKEN[case])
    model = Affine()
    before = model.weight.value
    with pytest.raises(sl.CheckpointError, match="which is no whole safetensors file"):
        load(file, model)
    with pytest.raises(sl.CheckpointError, match="which is no whole safetensors file"):
        load(file, model, strict=False)
    assert model.weight.value is before


def test_a_file_that_is_not_there(file, tmp_path):
    save(tmp_path / "other.safetensors", {})
    with pytest.raises(sl.CheckpointFileError, match=r"(?s)No such file.*other\.safetensors"):
        load(file, {})


def test_a_file_that_is_no_file():
    with pytest.raises(sl.CheckpointFileError, match="/dev/null is no file"):
        load("/dev/null", {})


def test_a_file_that_shrinks_while_it_is_read(file):
    save(file, {"w": np.ones(10_000), "step": 1})

    def shrink(array):
        with open(file, "r+b") as opened:
            opened.truncate(40_000)
        return array

    rule = sl.checkpoint.Rule("step", "step", load=shrink)
    with pytest.raises(sl.CheckpointError, match="it has become shorter"):
        load(file, {"w": np.zeros(10_000), "step": 0}, rename=rule)


def test_a_file_that_is_replaced_while_it_is_read_is_read_to_its_end(file):
    save(file, tree(1))

    def replace(array):
        save(file, tree(2))
        return array

    loaded = load(file, tree(0), rename=sl.checkpoint.Rule("step", "step", load=replace))
    assert loaded["a"][0] == loaded["step"] == 1


def test_booleans_of_others_that_are_neither_0_nor_1(file):
    header = '{"a":{"dtype":"BOOL","shape":[3],"data_offsets":[0,3]}}'
    file.write_bytes(content(header, b"\x00\x01\x07"))
    loaded = load(file, {"a": np.zeros(3, bool)})["a"]
    np.testing.assert_array_equal(loaded.view(np.uint8), [0, 1, 1])


def fuzzed(whole, generator):
    """A whole file with some bytes changed, taken out, put in, or cut off."""
    data = bytearray(whole)
    length = int.from_bytes(data[:8], "little")
    for _ in range(generator.integers(1, 4)):
        # Most of what can go wrong is in the header.
        end = len(data) if generator.random() < 0.2 else min(8 + length, len(data))
        at = int(generator.integers(0, max(end, 1)))
        match generator.integers(0, 5):
            case 0:
                data[at : at + 1] = generator.bytes(1)
            case 1:
                del data[at : at + int(generator.integers(1, 9))]
            case 2:
                data[at:at] = generator.bytes(int(generator.integers(1, 9)))
            case 3:
                del data[at:]
            case 4:  # one digit for another, so that the header can still be read
                digits = [i for i in range(8, end) if chr(data[i]).isdigit()]
                for i in generator.choice(digits, 1) if digits else ():
                    data[i] = ord("0") + int(generator.integers(0, 10))
    return bytes(data)


def check_fuzzed(file, count, seed):
    generator = np.random.default_rng(seed)
    model = Affine()
    saved = {"model": model, "z": np.ones((2, 3), complex), "k": jnp.ones(2, "int4"), "step": 3}
    save(file, saved)
    whole = file.read_bytes()
    refused = 0
    for _ in range(count):
        file.write_bytes(fuzzed(whole, generator))
        model = Affine()
        before = dict(model.states().values_dict())
        like = {**saved, "model": model}
        try:
            load(file, like)
        except sl.CheckpointError:
            refused += 1
            now = model.states().values_dict()
            assert all(now[path] is before[path] for path in before)
        with contextlib.suppress(sl.CheckpointError):  # of a file that can't be read
            assert isinstance(load(file, like, strict=False)[1], sl.checkpoint.Report)
    assert refused > count // 2


def test_twenty_changed_files_are_refused_or_loaded_whole(file):
    check_fuzzed(file, 20, seed=0)


@pytest.mark.slow
def test_five_hundred_changed_files_are_refused_or_loaded_whole(file):
    check_fuzzed(file, 500, seed=1)


# Without the extra.


def test_without_safetensors_the_extra_is_named():
    code = textwrap.dedent("""
        import sys
        sys.modules["safetensors"] = None
        import statelens as sl
        for call in (
            lambda: sl.checkpoint.save("a", {}),
            lambda: sl.checkpoint.load("a", {}),
            lambda: sl.checkpoint.read_header("a"),
        ):
            try:
                call()
            except sl.MissingPackageError as error:
                print("pip install 'statelens[io]'" in str(error))
    """)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "True\nTrue\nTrue\n"


def test_importing_the_library_imports_neither_safetensors_nor_orbax():
    code = "import sys, statelens; print({'safetensors', 'orbax'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "set()\n"
