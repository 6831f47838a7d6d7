"""Files are found in one way, and outputs get names that cannot collide."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.shared.errors import DataError
from pipelines.shared.files import find_files, is_dicom, kinds, output_name, shown_name, walk


def touch(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"x")


def test_links_are_followed_loops_end_and_litter_is_no_data(tmp_path):
    root, elsewhere = tmp_path / "set", tmp_path / "disk"
    for name in ("a/slice10.png", "a/slice2.png", "a/._slice2.png", ".DS_Store", "a/Thumbs.db", "__MACOSX/a/b.png",
                 ".hidden/c.png", "notes.txt"):  # fmt: skip
        touch(root / name)
    touch(elsewhere / "far.PNG")
    (root / "linked").symlink_to(elsewhere)
    (root / "a" / "up").symlink_to(root)
    (root / "gone.png").symlink_to(tmp_path / "nowhere")
    assert [str(f) for f in find_files(root, [".png"])] == ["a/slice2.png", "a/slice10.png", "linked/far.PNG"]
    assert [str(f) for f in walk(root)] == ["a/slice2.png", "a/slice10.png", "gone.png", "linked/far.PNG", "notes.txt"]
    assert kinds(walk(root)) == "4 .png, 1 .txt"


def test_a_folder_goes_by_its_own_name_before_a_links(tmp_path):
    touch(tmp_path / "train" / "NORMAL" / "1.png")
    touch(tmp_path / "archive" / "2.png")
    (tmp_path / "a newest").symlink_to("train")
    (tmp_path / "archive" / "all").symlink_to("../train/NORMAL")
    assert [str(f) for f in find_files(tmp_path)] == ["archive/2.png", "train/NORMAL/1.png"]


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    touch(tmp_path / "mine" / "1.png")
    touch(tmp_path / "theirs" / "2.png")
    touch(tmp_path / "lost+found" / "3.png")
    scan = os.scandir

    def refused(place):
        if Path(place).name in ("theirs", "lost+found"):
            raise PermissionError(13, "Permission denied", str(place))
        return scan(place)

    monkeypatch.setattr(os, "scandir", refused)  # a test that runs as root may read everything
    with pytest.raises(DataError, match="theirs cannot be read: Permission denied"):
        walk(tmp_path)


def test_dicom_is_known_by_its_content(tmp_path):
    (tmp_path / "IM0001").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "short.dcm").write_bytes(b"DICM")
    assert is_dicom(tmp_path / "IM0001")
    assert not is_dicom(tmp_path / "short.dcm")
    assert not is_dicom(tmp_path / "nowhere")


def test_names_of_outputs_keep_any_script_and_the_suffix():
    assert output_name("2024.01.15.svs") == "2024.01.15.svs"
    assert output_name("病人/切片.tif") == "病人__切片.tif"
    assert len({output_name(n) for n in ("a/b.png", "a__b.png", "a_/_b.png", "a/_/b.png", "a:b.png", "a?b.png")}) == 6
    assert output_name("a_/b.png") != output_name("a/_b.png")
    assert output_name("..").strip(".") != ""
    assert len(output_name("x" * 400).encode()) < 200
    assert shown_name(os.fsdecode(b"caf\xe9.png")) == "caf\\xe9.png"
    output_name(os.fsdecode(b"caf\xe9.png")).encode()


names = st.text(st.sampled_from("ab_./ :é病\\"), min_size=1, max_size=8)


@given(names, names)
def test_two_inputs_never_share_a_name(one, other):
    one, other = (str(Path(n)) for n in (one, other))
    if one != other:
        assert output_name(one) != output_name(other)
    assert "/" not in output_name(one)
