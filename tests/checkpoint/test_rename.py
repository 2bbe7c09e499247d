"""Rules that rename: which name means which path, both ways."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import statelens as sl
from statelens.checkpoint import Rule, load, read_header, save


@pytest.fixture
def file(tmp_path):
    return tmp_path / "model.safetensors"


def tree_of(names):
    """A tree whose written paths are some names."""
    leaves = {sl.path.parse(name): float(n) for n, name in enumerate(names, 1)}
    return {path: np.full(1, value) for path, value in leaves.items()}


CASES = [
    ({"encoder.**": "backbone.**"}, {"encoder.a.b": "backbone.a.b", "head": "head"}),
    ({"encoder.**": "backbone.**"}, {"encoder": "backbone", "encoders.a": "encoders.a"}),
    ({"encoder.**": "backbone.**"}, {"encoder[0].w": "backbone[0].w"}),
    ({"model.**": "**"}, {"model.a.b": "a.b"}),
    ({"model.**": "**"}, {"model[0]": "[0]"}),
    ({"**": "model.**"}, {"a.b": "model.a.b"}),
    ({"**.kernel": "**.weight"}, {"a.b.kernel": "a.b.weight", "kernel": "weight"}),
    ({"*.w": "*.weight"}, {"a.w": "a.weight", "a.b.w": "a.b.w"}),
    ({"*.in.*": "*[0].*"}, {"a.in.b": "a[0].b"}),
    ({"layers.*.w": "blocks[*].w"}, {"layers.0.w": "blocks[0].w", "layers.10.w": "blocks[10].w"}),
    (
        {"model.layers.{i}.self_attn.{p}_proj.weight": "blocks[{i}].attn.{p}.weight"},
        {"model.layers.3.self_attn.q_proj.weight": "blocks[3].attn.q.weight"},
    ),
    ({"{i}.to.{i}": "same[{i}]"}, {"3.to.3": "same[3]"}),
    ({"{a}_{b}": "{b}.{a}"}, {"x_y": "y.x"}),
    ({"a.(b)+": "c"}, {"a.(b)+": "c"}),
    # The first rule that matches holds.
    ({"a.b": "exact", "a.**": "rest.**"}, {"a.b": "exact", "a.c": "rest.c"}),
]


@pytest.mark.parametrize(("rename", "names"), CASES, ids=[str(case[0]) for case in CASES])
def test_rules_rename_there_and_back(file, rename, names):
    arrays = {name: np.full(1, float(n)) for n, name in enumerate(names, 1)}
    save_file(arrays, file)
    like = tree_of(names.values())
    loaded = load(file, jax.tree.map(np.zeros_like, like), rename=rename)
    for path, value in like.items():
        np.testing.assert_array_equal(loaded[path], value)
    save(file, loaded, rename=rename)
    back = load_file(file)
    assert back.keys() == arrays.keys()
    assert all(back[name] == arrays[name] for name in arrays)


def test_what_no_rule_covers_is_listed(file):
    save_file({"model.a": np.ones(1), "model.b": np.ones(1), "rotary.freq": np.ones(1)}, file)
    like = {"a": np.zeros(1), "c": np.zeros(1)}
    with pytest.raises(sl.CheckpointError, match=r"1 missing, 2 unexpected") as error:
        load(file, like, rename={"model.**": "**"})
    assert error.value.report.unexpected == ("model.b", "rotary.freq")
    assert error.value.report.missing == (("c",),)


def test_none_leaves_names_out(file):
    save_file({"a": np.ones(1), "rotary.freq": np.ones(1)}, file)
    assert load(file, {"a": np.zeros(1)}, rename={"rotary.**": None})["a"] == 1


def test_the_encoder_of_a_saved_model_in_a_bigger_one(file):
    save(file, {"encoder": {"w": jnp.ones(2)}, "head": jnp.ones(3)})
    like = {"backbone": {"w": jnp.zeros(2)}, "head": jnp.zeros(7)}
    loaded = load(file, like, lens="backbone.**", rename={"encoder.**": "backbone.**"})
    np.testing.assert_array_equal(loaded["backbone"]["w"], [1, 1])
    assert loaded["head"] is like["head"]


def test_a_module_is_loaded_by_rules(file):
    model = sl.nn.Module()
    model.inner = sl.nn.Module()
    model.inner.weight = sl.ParamState(jnp.zeros((3, 2)))
    save_file({"fc.w": np.arange(6, dtype=np.float32).reshape(2, 3)}, file)
    rule = Rule("fc.w", "inner.weight", np.transpose, np.transpose)
    load(file, model, rename=rule)
    np.testing.assert_array_equal(model.inner.weight.value, np.arange(6).reshape(2, 3).T)
    save(file, model, rename=rule)
    np.testing.assert_array_equal(load_file(file)["fc.w"], np.arange(6).reshape(2, 3))


# Several names, several paths.

FUSED = Rule(
    "h.{i}.qkv",
    ("h[{i}].q", "h[{i}].k", "h[{i}].v"),
    load=lambda qkv: np.split(qkv, 3),
    save=lambda q, k, v: np.concatenate([q, k, v]),
)
SPLIT = Rule(
    ("{h}.q", "{h}.k"),
    "{h}.qk",
    load=lambda q, k: np.stack([q, k]),
    save=lambda qk: (qk[0], qk[1]),
)
TIED = Rule(("embed.weight", "head.weight"), "embed")


def test_a_fused_array_is_split_and_fused_again(file):
    fused = {"h.0.qkv": np.arange(6.0), "h.1.qkv": np.arange(6.0, 12.0)}
    save_file(fused, file)
    like = {"h": [{name: np.zeros(2) for name in "qkv"} for _ in range(2)]}
    loaded = load(file, like, rename=FUSED)
    np.testing.assert_array_equal(loaded["h"][1]["k"], [8, 9])
    save(file, loaded, rename=[FUSED])
    back = load_file(file)
    assert back.keys() == fused.keys()
    assert all((back[name] == fused[name]).all() for name in fused)
    # A part alone can be loaded, and not saved.
    k = load(file, like, rename=FUSED, lens="h[0].k")["h"][0]
    np.testing.assert_array_equal(k["k"], [2, 3])
    np.testing.assert_array_equal(k["q"], [0, 0])
    with pytest.raises(sl.CheckpointError, match=r"'h\[0\]\.q', 'h\[0\]\.v' isn't selected"):
        save(file, loaded, rename=FUSED, lens="h[0].k")


def test_several_arrays_are_joined_and_split_again(file):
    save_file({"a.q": np.zeros(2), "a.k": np.ones(2)}, file)
    loaded = load(file, {"a": {"qk": np.ones((2, 2))}}, rename=SPLIT)
    np.testing.assert_array_equal(loaded["a"]["qk"], [[0, 0], [1, 1]])
    save(file, loaded, rename=SPLIT)
    np.testing.assert_array_equal(load_file(file)["a.k"], [1, 1])


def test_a_rule_that_lacks_an_array_is_reported(file):
    save_file({"a.q": np.zeros(2)}, file)
    with pytest.raises(sl.CheckpointError, match=r"'a\.qk': .* of which it lacks 'a\.k'"):
        load(file, {"a": {"qk": np.ones((2, 2))}}, rename=SPLIT)


@pytest.mark.parametrize("names", [["embed.weight", "head.weight"], ["head.weight"]])
def test_a_tied_array_has_several_names(file, names):
    save_file({name: np.arange(2.0) for name in names}, file)
    loaded = load(file, {"embed": np.zeros(2)}, rename=TIED)
    np.testing.assert_array_equal(loaded["embed"], [0, 1])
    save(file, loaded, rename=TIED)
    assert load_file(file).keys() == {"embed.weight", "head.weight"}


def test_a_tied_array_that_is_not_tied_in_the_file_is_reported(file):
    save_file({"embed.weight": np.zeros(2), "head.weight": np.ones(2)}, file)
    with pytest.raises(sl.CheckpointError, match=r"differ, 'embed\.weight' and 'head\.weight'"):
        load(file, {"embed": np.zeros(2)}, rename=TIED)
    two = {"embed.weight": "embed", "head.weight": "embed"}
    with pytest.raises(sl.CheckpointError, match=r"differ, 'embed\.weight' and 'head\.weight'"):
        load(file, {"embed": np.zeros(2)}, rename=two)


def test_a_path_that_two_rules_lead_to_is_reported(file):
    save_file({"a": np.ones(2), "b": np.ones(2), "c": np.ones(2)}, file)
    made = [Rule(name, "w", load=lambda w: w) for name in "ab"]
    for rules in (made, [made[0], Rule("b", "w")]):
        with pytest.raises(sl.CheckpointError, match="'b' and another by another rule"):
            load(file, {"w": np.zeros(2)}, rename=rules)


def test_one_array_of_a_file_for_several_paths(file):
    rule = Rule("embed.weight", ("embed", "head"))
    save_file({"embed.weight": np.arange(2.0)}, file)
    loaded = load(file, {"embed": np.zeros(2), "head": np.zeros(2)}, rename=rule)
    np.testing.assert_array_equal(loaded["head"], [0, 1])
    assert loaded["head"] is not loaded["embed"]
    save(file, loaded, rename=rule)
    assert load_file(file).keys() == {"embed.weight"}
    loaded["head"][0] = 7
    with pytest.raises(sl.CheckpointError, match="the arrays differ, and the file has one"):
        save(file, loaded, rename=rule)


def test_a_function_may_cast(file):
    save_file({"w": np.ones(2, np.float16)}, file)
    rule = Rule("w", "w", load=lambda w: w.astype(np.float32))
    loaded = load(file, {"w": jnp.zeros(2)}, rename=rule)
    assert loaded["w"].dtype == np.float32
    with pytest.raises(sl.CheckpointError, match="the rule has no save="):
        save(file, loaded, rename=rule)


def test_what_a_function_gives_is_checked(file):
    save_file({"w": np.ones(4, np.float32)}, file)
    like = {"w": jnp.zeros(2), "v": jnp.zeros(2)}
    with pytest.raises(sl.CheckpointError, match=r"'v': the shape .* float32\[3\], and"):
        load(file, like, rename=Rule("w", ("w", "v"), load=lambda w: np.split(w, [1])))
    with pytest.raises(sl.CheckpointError, match="it gave 4 arrays for 2 patterns"):
        load(file, like, rename=Rule("w", ("w", "v"), load=lambda w: np.split(w, 4)))
    with pytest.raises(ZeroDivisionError):
        load(file, like, rename=Rule("w", ("w", "v"), load=lambda w: 1 // 0))
    assert (like["w"] == 0).all()


def test_what_a_function_was_given_is_not_shared(file):
    kept = []
    save_file({"w": np.ones(100, np.float32)}, file)
    rule = Rule("w", "w", load=lambda w: kept.append(w) or w)
    loaded = load(file, {"w": jnp.zeros(100)}, rename=rule)
    kept[0][:] = 7
    assert (loaded["w"] == 1).all()


def test_arrays_of_bfloat16_go_through_functions(file):
    rule = Rule("w", "w", np.transpose, np.transpose)
    save(file, {"w": jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3)}, rename=rule)
    assert read_header(file).arrays["w"] == ((3, 2), "bfloat16")
    loaded = load(file, {"w": jnp.zeros((2, 3), jnp.bfloat16)}, rename=rule)
    np.testing.assert_array_equal(loaded["w"], jnp.arange(6).reshape(2, 3))


def test_python_numbers_are_missing_in_no_file_of_others(file):
    save_file({"w": np.ones(1)}, file)
    loaded, report = load(file, {"w": np.zeros(1), "p": 0.5}, strict=False)
    assert report.fits
    assert loaded["p"] == 0.5
    save_file({"w": np.ones(1), "p": np.array(0.25, np.float32)}, file)
    assert load(file, {"w": np.zeros(1), "p": 0.5})["p"] == 0.25


def test_several_files_are_loaded_as_one(tmp_path):
    files = [tmp_path / f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    save_file({"a": np.ones(2), "h.0.qkv": np.arange(6.0)}, files[0])
    save_file({"b": np.arange(2.0)}, files[1])
    like = {"a": np.zeros(2), "b": np.zeros(2), "h": [{name: np.zeros(2) for name in "qkv"}]}
    loaded = load(files, like, rename=FUSED)
    np.testing.assert_array_equal(loaded["b"], [0, 1])
    np.testing.assert_array_equal(loaded["h"][0]["v"], [4, 5])
    with pytest.raises(sl.CheckpointError, match=r"00001-of.*00002-of.*1 missing"):
        load(files, {**like, "c": np.zeros(1)}, rename=FUSED)
    save_file({"a": np.ones(2)}, files[1])
    with pytest.raises(sl.CheckpointError, match="'a' is in two of them"):
        load(files, like, rename=FUSED)
    assert load([], {}) == {}


# What is no rule.


@pytest.mark.parametrize(
    ("rename", "error", "says"),
    [
        ({"a.{i}": "b"}, sl.ArgumentError, "the one has the captures i, the other none"),
        ({"a.**": "b.*"}, sl.ArgumentError, r"the captures \*\*0, the other \*0"),
        ({"{w,b}": "{w,b}"}, sl.ArgumentError, "'{w,b}' isn't understood"),
        ({"a.{": "b"}, sl.ArgumentError, "'a.{' isn't understood"),
        ({3: "b"}, sl.ArgumentTypeError, "a rule for 3\nthat is a int"),
        ([("a", "b")], sl.ArgumentTypeError, r"\('a', 'b'\) is a tuple, and no rule"),
        ("a->b", sl.ArgumentTypeError, "'a' is a str, and no rule"),
        (3, sl.ArgumentTypeError, "3 is a int, and no rule"),
    ],
)
def test_what_is_no_rule_is_refused(file, rename, error, says):
    with pytest.raises(error, match=says):
        save(file, {"a": jnp.ones(1)}, rename=rename)


def test_functions_of_rules_are_functions():
    with pytest.raises(sl.ArgumentTypeError, match="asked a Rule for load=3"):
        Rule("a", "b", load=3)  # type: ignore[arg-type]
    with pytest.raises(sl.ArgumentError, match="it has no name in a file"):
        Rule((), "b")


def test_two_arrays_of_one_name_are_refused(file):
    with pytest.raises(sl.CheckpointError, match="asked to save 'b' as 'a'\nanother array has"):
        save(file, {"a": jnp.ones(1), "b": jnp.ones(1)}, rename={"a": "b"})


# Rules that hold for nothing.

TYPO = Rule("fc.weigth", "fc.weight", np.transpose, np.transpose)
SHADOWED = [Rule("**", "net.**"), Rule("fc.weight", "net.fc.weight", np.transpose, np.transpose)]


@pytest.mark.parametrize(
    ("rename", "says"),
    [
        (TYPO, r"1 unused\n.*'fc\.weigth' -> 'fc\.weight': no name .* names are 'fc\.weight'"),
        ({"fc.weigth": None}, r"'fc\.weigth' -> None: no name matches"),
        (
            {"**": "**", "fc.weight": None},
            r"'fc\.weight' is taken .* put it before that for '\*\*'",
        ),
    ],
    ids=["typo", "none", "shadowed"],
)
def test_an_unused_rule_is_refused(file, rename, says):
    save_file({"fc.weight": np.arange(4.0).reshape(2, 2)}, file)
    like = {"fc": {"weight": np.zeros((2, 2))}}
    with pytest.raises(sl.CheckpointError, match=says):
        load(file, like, rename=rename)
    assert (like["fc"]["weight"] == 0).all()
    _, report = load(file, like, rename=rename, strict=False)
    assert not report.fits
    assert len(report.unused) == 1


def test_a_shadowed_rule_is_refused_both_ways(file):
    save_file({"fc.weight": np.arange(4.0).reshape(2, 2)}, file)
    like = {"net": {"fc": {"weight": np.zeros((2, 2))}}}
    with pytest.raises(sl.CheckpointError, match=r"'fc\.weight' is taken by an earlier rule; put"):
        load(file, like, rename=SHADOWED)
    loaded = load(file, like, rename=SHADOWED[::-1])
    np.testing.assert_array_equal(loaded["net"]["fc"]["weight"], [[0, 2], [1, 3]])
    with pytest.raises(sl.CheckpointError, match=r"1 hold for nothing\n.*'net\.fc\.weight' is tak"):
        save(file, like, rename=SHADOWED)


def test_a_rule_for_all_others_may_have_none(file):
    save_file({"a.w": np.arange(2.0)}, file)
    narrow = Rule("a.{n}", "b.{n}", np.flip, np.flip)
    tree = load(file, {"b": {"w": np.zeros(2)}}, rename=[narrow, Rule("**", "**")])
    np.testing.assert_array_equal(tree["b"]["w"], [1, 0])
    save(file, tree, rename=[narrow, Rule("**", "**")])
    np.testing.assert_array_equal(load_file(file)["a.w"], [0, 1])
    for same in (Rule("a.{n}", "b.{n}"), Rule("a.*", "b.*")):
        with pytest.raises(sl.CheckpointError, match=r"'a\.w' is taken by an earlier rule"):
            load(file, tree, rename=[same, narrow])


def test_a_rule_for_no_path_is_refused_when_saving(file):
    tree = {"layers": [jnp.ones(1), jnp.ones(1)]}
    with pytest.raises(sl.CheckpointError, match=r"no name matches; the closest .* 'layers\[1\]'"):
        save(file, tree, rename={"x": "layers[-1]"})
    assert not file.exists()
    # Names to be left out have no path.
    save(file, tree, rename={"rotary.**": None})


def test_rules_for_what_a_lens_leaves_out_are_used(file):
    model = sl.nn.Module()
    model.a, model.b = sl.ParamState(jnp.ones(1)), sl.ParamState(jnp.ones(2))
    rename = {"x": "a", "y": "b"}
    save(file, model, rename=rename)
    for like, lens in [(model, "a"), (model.states("a"), ...), ({"a": jnp.ones(1)}, "a")]:
        load(file, like, lens=lens, rename=rename)
    save(file, model, lens="a", rename=rename)
    assert load_file(file).keys() == {"x"}
    save(file, model.states("b"), rename=rename)
    assert load_file(file).keys() == {"y"}
    with pytest.raises(sl.CheckpointError, match=r"'z' -> 'c': no name matches"):
        save(file, model, lens="a", rename={"z": "c"})


def test_rules_of_several_files_are_used_in_one_of_them(tmp_path):
    files = [tmp_path / "1.safetensors", tmp_path / "2.safetensors"]
    for name, file in zip("ab", files, strict=True):
        save_file({f"{name}.w": np.ones(1)}, file)
    rules = {"a.**": "x.**", "b.**": "y.**"}
    like = {"x": {"w": np.zeros(1)}, "y": {"w": np.zeros(1)}}
    assert load(files, like, rename=rules)["y"]["w"] == 1
    with pytest.raises(sl.CheckpointError, match=r"'c\.\*\*' -> 'z\.\*\*': no name matches"):
        load(files, like, rename={**rules, "c.**": "z.**"})


@pytest.mark.parametrize("path", ["layers[-1]", "layer[1]", "layers.1"])
def test_a_path_that_a_rule_gives_and_that_is_not_there_is_named(file, path):
    save_file({"x": np.ones(1), "layers[0]": np.ones(1)}, file)
    like = {"layers": [np.zeros(1), np.zeros(1)]}
    says = rf"'x', for which a rule gives '{re.escape(path)}': there is none \(like 'layers\[1\]'"
    with pytest.raises(sl.CheckpointError, match=says) as error:
        load(file, like, rename={"x": path})
    assert error.value.report.renamed == (("x", path),)


def test_a_path_that_is_not_there_is_named_where_a_lens_misses_another(file):
    save_file({"x": np.ones(1), "head.w": np.ones(1), "other": np.ones(1)}, file)
    rename = {"x": "fc.weigth", "head.**": "heads.**"}
    like = {"fc": {"weight": np.zeros(1)}, "b": np.zeros(1)}
    says = r"'x', for which a rule gives 'fc\.weigth': there is none \(like 'fc\.weight'"
    with pytest.raises(sl.CheckpointError, match=says) as error:
        load(file, like, lens="fc.**", rename=rename)
    assert "other" not in error.value.report.unexpected
    # Of what else the file has, no error is made.
    assert load(file, like, lens="fc.**", rename={**rename, "x": "fc.weight"})["fc"]["weight"] == 1


def test_a_dtype_that_differs_is_cast_as_the_error_says(file):
    save(file, {"w": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(2, jnp.bfloat16)})
    like = {"w": jnp.zeros(2), "b": jnp.zeros(2)}
    with pytest.raises(sl.CheckpointError, match="2 mismatched") as error:
        load(file, like)
    said = re.search(r"rename=(Rule\(.*?\)\)), which casts", str(error.value))
    assert said is not None
    loaded = load(file, like, rename=eval(said[1], {"Rule": Rule}))
    assert loaded["w"].dtype == np.float32
    assert (loaded["w"] == 1).all()
    # Where no dtype differs, nothing is said of casts.
    with pytest.raises(sl.CheckpointError) as error:
        load(file, {**like, "w": jnp.zeros(3, jnp.bfloat16), "b": jnp.zeros(2, jnp.bfloat16)})
    assert "casts" not in str(error.value)
