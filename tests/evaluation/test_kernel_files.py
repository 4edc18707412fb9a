"""Compiled kernels on disk: for the user alone, whole or not at all, and not too many."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from fastgc._evaluation import kernel_files
from fastgc._evaluation.kernel_files import KernelFiles, allowed, is_private

posix = pytest.mark.skipif(not hasattr(os, "getuid"), reason="permissions of POSIX")


@pytest.fixture
def files(tmp_path: Path) -> KernelFiles:
    return KernelFiles(str(tmp_path / "cache"), "stamp", pickle.dumps)


def folder(tmp_path: Path) -> Path:
    (found,) = (tmp_path / "cache").iterdir()
    return found


def test_what_is_saved_is_found(files: KernelFiles, tmp_path: Path) -> None:
    assert files.load("key") is None
    files.save("key", [1, 2])
    assert files.load("key") == [1, 2]
    assert files.load("other") is None
    assert KernelFiles(str(tmp_path / "cache"), "another stamp", pickle.dumps).load("key") is None
    files.flush()
    assert files.load("key") is None


@posix
def test_the_folder_is_the_users_alone(files: KernelFiles, tmp_path: Path) -> None:
    files.save("key", 1)
    assert folder(tmp_path).stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder(tmp_path).iterdir()} == {0o600}


@posix
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720, 0o702, 0o755])
def test_a_folder_that_others_may_enter_is_not_read(files: KernelFiles, tmp_path: Path, mode: int) -> None:
    files.save("key", 1)
    folder(tmp_path).chmod(mode)
    assert files.load("key") is None
    files.save("new", 1)
    assert len(list(folder(tmp_path).iterdir())) == 1


@posix
def test_a_folder_of_another_user_is_not_read(
    files: KernelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.save("key", 1)
    assert is_private(folder(tmp_path))
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert not is_private(folder(tmp_path))
    assert files.load("key") is None


@posix
def test_a_link_to_a_folder_is_not_followed(files: KernelFiles, tmp_path: Path) -> None:
    files.save("key", 1)
    place = folder(tmp_path)
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    assert files.load("key") is None


def test_a_damaged_file_is_no_file(files: KernelFiles, tmp_path: Path) -> None:
    files.save("key", list(range(40)))
    (path,) = folder(tmp_path).iterdir()
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        assert files.load("key") is None
        path.write_bytes(whole[:place])
        assert files.load("key") is None
    path.write_bytes(whole)
    assert files.load("key") == list(range(40))


def test_a_full_disk_does_no_harm(files: KernelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.save("key", 1)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    files.save("new", 1)
    assert (files.load("key"), files.load("new")) == (1, None)
    assert len(list(folder(tmp_path).iterdir())) == 1


def test_a_folder_that_cannot_be_made_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    files = KernelFiles(str(tmp_path / "cache"), "stamp", pickle.dumps)
    files.save("key", 1)
    assert files.load("key") is None


def test_the_files_that_were_not_used_for_longest_go_first(
    files: KernelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_files, "MOST_BYTES", 10_000)
    for key in range(4):
        files.save(key, b"x" * 2000)
        for path in folder(tmp_path).iterdir():
            os.utime(path, (path.stat().st_mtime - 100,) * 2)
    assert files.load(0) is not None  # used last
    files.save(4, b"x" * 4000)
    assert [key for key in range(5) if files.load(key)] == [4]
    assert sum(path.stat().st_size for path in folder(tmp_path).iterdir()) <= 5000


@pytest.mark.parametrize(("value", "answer"), [("0", False), ("1", True), (None, True)])
def test_the_user_may_forbid_them(value: str | None, answer: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTGC_CACHE", raising=False)
    if value is not None:
        monkeypatch.setenv("FASTGC_CACHE", value)
    assert allowed() is answer
