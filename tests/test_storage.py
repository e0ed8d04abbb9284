"""Checkpoints: whole or not there, and a damaged one is known."""

import contextlib
import errno
import pickle

import pytest
import torch

from ditcnn.system.errors import InputError, RunFailed
from ditcnn.system.files import write_atomically
from ditcnn.system.locks import try_lock
from ditcnn.train.checkpoint import FORMAT, clean, load_newest, save_newest
from ditcnn.train.folder import RunFolder
from ditcnn.train.storage import Damaged, load_state, save_state


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path)


def state(number):
    return {"format": FORMAT, "number": number, "tensor": torch.full((5000,), float(number))}


def test_a_state_comes_back(tmp_path):
    save_state(tmp_path / "a.pt", {"t": torch.arange(3), "n": {"x": [1, 2.5, "text", None, True]}})
    back = load_state(tmp_path / "a.pt")
    assert back["t"].tolist() == [0, 1, 2]
    assert back["n"] == {"x": [1, 2.5, "text", None, True]}


def test_the_two_newest_are_kept(folder):
    for number in (1, 2, 3):
        save_newest(folder, state(number))
    assert load_state(folder.last)["number"] == 3
    assert load_state(folder.previous)["number"] == 2
    assert sorted(p.name for p in folder.path.iterdir()) == ["last.pt", "previous.pt"]


def cut(content):
    return content[: len(content) // 2]


def flip(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [cut, flip, lambda content: b"", lambda content: b"text"])
def test_a_damaged_newest_falls_back_with_a_warning(folder, damage):
    save_newest(folder, state(1))
    save_newest(folder, state(2))
    folder.last.write_bytes(damage(folder.last.read_bytes()))
    warnings = []
    loaded, path = load_newest(folder, warnings.append)
    assert (loaded["number"], path) == (1, folder.previous)
    assert len(warnings) == 1
    assert "last.pt is damaged" in warnings[0]
    # The next save must not push out the one that is whole.
    clean(folder, path)
    save_newest(folder, state(2))
    assert load_state(folder.previous)["number"] == 1


def test_each_flipped_bit_is_harmless_or_noticed(tmp_path):
    path = tmp_path / "a.pt"
    save_state(path, {"t": torch.arange(5)})
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with contextlib.suppress(Damaged):
            assert load_state(path)["t"].tolist() == [0, 1, 2, 3, 4]


def test_no_checkpoint_is_none_and_two_damaged_are_an_error(folder):
    assert load_newest(folder, pytest.fail) is None
    folder.last.write_bytes(b"x")
    folder.previous.write_bytes(b"y")
    with pytest.raises(InputError, match=r"last\.pt, previous\.pt damaged"):
        load_newest(folder, lambda message: None)


def test_a_kill_between_the_two_renames_leaves_a_checkpoint(folder):
    save_newest(folder, state(1))
    folder.last.rename(folder.previous)
    assert load_newest(folder, pytest.fail)[0]["number"] == 1


class Evil:
    def __reduce__(self):
        return print, ("run",)


def test_a_checkpoint_that_wants_code_is_refused_unrun(tmp_path, capsys):
    torch.save({"a": Evil()}, tmp_path / "a.pt")
    with pytest.raises(Damaged):
        load_state(tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(Damaged):
        load_state(tmp_path / "b.pt")
    assert capsys.readouterr().out == ""


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ditcnn.system.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_leftovers_of_a_killed_process_are_removed(folder):
    (folder.path / ".last.pt.1.tmp").write_text("")
    (folder.path / ".last.pt.new").write_text("")
    (folder.path / ".export-x").mkdir()
    (folder.path / "notes.txt").write_text("")
    folder.last.write_text("whole")
    clean(folder, folder.last)
    assert sorted(p.name for p in folder.path.iterdir()) == ["last.pt", "notes.txt"]


@pytest.mark.parametrize(("error", "raised"), [(OSError(5, "Input/output error"), OSError), (MemoryError(), RunFailed)])
def test_a_disk_that_fails_or_too_little_memory_is_no_damage(folder, error, raised, monkeypatch):
    save_newest(folder, state(1))

    def failing(*arguments, **options):
        raise error

    monkeypatch.setattr(torch, "load", failing)
    with pytest.raises(raised):
        load_newest(folder, lambda message: pytest.fail(message))


@pytest.fixture
def refused(monkeypatch):
    """Make the system refuse locks for a reason."""

    def refuse(number):
        def flock(*arguments):
            raise OSError(number, "refused")

        monkeypatch.setattr("fcntl.flock", flock)

    return refuse


def test_a_disk_without_locks_is_gone_on_with_and_a_failing_one_is_not(refused):
    refused(errno.ENOSYS)
    with pytest.warns(UserWarning, match="no locks"):
        assert try_lock(0)
    refused(errno.EIO)
    with pytest.raises(OSError, match="refused"):
        try_lock(0)
    refused(errno.EAGAIN)
    assert not try_lock(0)
