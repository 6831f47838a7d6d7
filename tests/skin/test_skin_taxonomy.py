"""Partitioning and inference on random trees, against brute force; the trees on disk, and what may be wrong."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import REPOSITORY
from hypothesis import given
from hypothesis import strategies as st

from pipelines.shared.errors import DataError
from pipelines.skin.taxonomy import Taxonomy, answers, infer, level, partition
from pipelines.skin.training_classes import class_numbers, find_classes, tree_of
from pipelines.skin.trees import read_tree

TREES = sorted(f.stem for f in (REPOSITORY / "conf" / "skin" / "taxonomy").glob("*.yaml"))


@st.composite
def random_trees(draw):
    """A tree of up to 40 nodes: each node hangs on an earlier one; and the images of its leaves."""
    parents = [draw(st.integers(0, i)) for i in range(draw(st.integers(1, 39)))]
    children: dict[str, list[str]] = {str(i): [] for i in range(len(parents) + 1)}
    for child, parent in enumerate(parents, start=1):
        children[str(parent)].append(str(child))
    tree = Taxonomy("0", children)
    images = {leaf: draw(st.integers(0, 30)) for leaf in tree.leaves}
    return tree, images


def size(tree, images, node):
    """Images below a node, by looking at every leaf's path."""
    return sum(n for leaf, n in images.items() if node == "0" or node in tree.paths[leaf])


@given(random_trees(), st.integers(1, 60))
def test_every_image_is_in_exactly_one_class(case, limit):
    tree, images = case
    classes = partition(tree, images, limit)
    assert len(set(classes)) == len(classes)
    for leaf, count in images.items():
        above = [c for c in classes if c == tree.root or c in tree.paths[leaf]]
        assert len(above) == 1 if count else len(above) <= 1
    assert sum(size(tree, images, c) for c in classes) == sum(images.values())


@given(random_trees(), st.integers(1, 60))
def test_classes_are_the_highest_small_nodes_or_large_leaves(case, limit):
    tree, images = case
    expected = set()
    for node, path in tree.paths.items():
        above = ["0", *path[:-1]] if node != "0" else []
        if size(tree, images, node) == 0 or any(size(tree, images, a) < limit for a in above):
            continue
        if size(tree, images, node) < limit or not tree.children[node]:
            expected.add(node)
    assert set(partition(tree, images, limit)) == expected


@given(random_trees(), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_a_nodes_probability_is_the_sum_of_its_childrens(case, limit, seed):
    tree, images = case
    classes = [c for c in partition(tree, images, limit) if c != tree.root]
    if not classes:
        return
    p = np.random.default_rng(seed).dirichlet(np.ones(len(classes)), size=3)
    nodes = infer(p, [tree.paths[c] for c in classes])
    for node, value in nodes.items():
        below = [i for i, c in enumerate(classes) if node in tree.paths[c]]
        np.testing.assert_allclose(value, p[:, below].sum(axis=1), atol=1e-12)
        children = [nodes[child] for child in tree.children[node] if child in nodes]
        if children and node not in classes:
            np.testing.assert_allclose(value, np.sum(children, axis=0), atol=1e-12)
    top = [nodes[c] for c in tree.children[tree.root] if c in nodes]
    np.testing.assert_allclose(np.sum(top, axis=0), 1, atol=1e-12)


def test_partition_of_a_tree_by_hand():
    tree = Taxonomy("r", {"r": "ab", "a": "cd", "b": (), "c": "ef", "d": (), "e": (), "f": ()})
    images = {"e": 300, "f": 400, "d": 900, "b": 5000}
    assert partition(tree, images, 1000) == ["c", "d", "b"], "c is small enough, b is a leaf above the limit"
    assert partition(tree, images, 700) == ["e", "f", "d", "b"], "fewer than the limit, not as many"
    assert partition(tree, images, 1601) == ["a", "b"]
    assert partition(tree, images, 10**6) == ["r"]
    assert partition(tree, images | {"b": 0}, 1000) == ["c", "d"], "a class without images cannot be learned"
    assert level(tree, images, 1) == ["a", "b"]
    assert level(tree, images | {"d": 0}, 2) == ["c", "b"]


@pytest.mark.parametrize("name", TREES)
def test_the_trees_are_whole_and_share_their_upper_nodes(name):
    tree = read_tree(name)
    three = set(tree.children[tree.root])
    nine = {node for node, path in tree.paths.items() if len(path) == 2}
    assert three <= {"benign", "malignant", "non_neoplastic"}
    assert nine <= {
        "benign_melanocytic", "benign_epidermal", "benign_dermal", "malignant_melanoma", "malignant_epidermal",
        "malignant_dermal", "cutaneous_lymphoma", "inflammatory", "genodermatoses",
    }  # fmt: skip
    for node in ("malignant_melanoma", "melanocytic_nevus", "keratinocyte_carcinoma", "seborrheic_keratosis"):
        assert node in tree.paths, "both binary tasks can be asked of every tree"
    counts = {"ham10000": 7, "isic2018": 7, "fitzpatrick17k": 114, "phantom": 20}
    assert len(tree.leaves) == counts[name]


def test_the_phantom_has_all_nine_ways():
    tree = read_tree("phantom")
    assert len({path[:2] for path in tree.paths.values() if len(path) >= 2}) == 9


BROKEN = """
benign:
  a: {b: [x, y]}
  c:
malignant:
  a: {d: [z]}
  e: {f: [x], malignant: [u]}
  g: [v]
  h: &loop
    i: *loop
  k: {l: []}
other: [w]
"""


def test_all_that_is_wrong_with_a_tree_is_said_at_once(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(BROKEN)
    with pytest.raises(DataError) as caught:
        read_tree(str(file))
    said = caught.value.problem
    for part in (
        "the node 'c' is empty", "the node 'a' occurs twice (first in line 3)", "the leaf 'x' occurs twice",
        "a cycle, 'malignant' lies below itself", "the node 'l' is empty", "the label 'w' lies too near to the root",
        "a cycle, 'i' lies below itself",
    ):  # fmt: skip
        assert part in said, part
    assert "g" in said or "v" not in said
    assert str(file) in said


@pytest.mark.parametrize(
    "text", ["[", "", "benign: {a: {b: [x, [y]]}}", "benign: {a: {b: x}}", "benign: {a: {b: [x/y]}}"]
)
def test_what_is_no_tree_is_refused(tmp_path, text):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(DataError):
        read_tree(str(file))


def test_an_unknown_tree_is_answered_with_the_nearest():
    with pytest.raises(DataError, match="Did you mean ham10000"):
        read_tree("ham1000")


def test_two_trees_meet_at_nodes_of_the_same_name():
    ours, theirs = read_tree("ham10000"), read_tree("isic2018")
    found = answers([theirs.paths[leaf] for leaf in theirs.leaves], list(ours.paths))
    expected = {leaf: next(n for n in reversed(theirs.paths[leaf]) if n in ours.paths) for leaf in theirs.leaves}
    assert found == [expected[leaf] for leaf in theirs.leaves]
    assert expected["MEL"] == "malignant_melanoma"
    assert expected["BCC"] == "keratinocyte_carcinoma"


def test_labels_that_the_network_cannot_tell_apart_are_not_answered():
    paths = [("benign", "b", "nv"), ("malignant", "m", "mel"), ("malignant", "e", "bcc")]
    assert answers(paths, ["benign", "malignant"]) == ["benign", None, None]
    assert answers(paths, ["m", "nv"]) == ["nv", "m", None]


def test_lineages_give_the_tree_and_the_classes_back():
    tree = read_tree("phantom")
    lineages = ["/".join(tree.paths[leaf]) for leaf in tree.leaves for _ in range(3)]
    again = tree_of(lineages)
    assert {n: p for n, p in again.paths.items() if p} == {n: p for n, p in tree.paths.items() if p}
    fine = find_classes(lineages, 1)
    assert [name.split("/")[-1] for name in fine] == again.leaves
    assert find_classes(lineages, 1, depth=1) == ["benign", "malignant", "non_neoplastic"]
    numbers = class_numbers([*lineages, "benign/elsewhere/unseen"], fine)
    assert np.isnan(numbers[-1])
    assert sorted(set(numbers[:-1])) == list(range(20))
