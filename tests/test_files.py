import errno
import socket
import subprocess
import sys

import pytest
from filelock import FileLock
from safetensors.torch import load_file

from optimum_ssgr.errors import OutputError
from optimum_ssgr.files import new_folder, write_whole


def test_the_folder_appears_when_all_is_written(tmp_path):
    with new_folder(tmp_path / "a" / "out") as partial:
        (partial / "file").write_text("x")
        assert not (tmp_path / "a" / "out").exists()
    assert (tmp_path / "a" / "out" / "file").read_text() == "x"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["out"]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt()])
def test_an_error_leaves_nothing_behind(tmp_path, error):
    with pytest.raises(type(error)), new_folder(tmp_path / "out") as partial:
        (partial / "file").write_text("x")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_sentence(tmp_path):
    with pytest.raises(OutputError, match=r"cannot write .*out: No space left on device"), new_folder(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


ELSEWHERE = [
    lambda other: (other / "missing").read_text(),
    lambda other: load_file(other / "damaged.safetensors"),
    lambda other: socket.create_connection(("127.0.0.1", 9), timeout=1),
    lambda other: FileLock(other / "lock", timeout=0).acquire(),
]


@pytest.mark.parametrize("fail", ELSEWHERE, ids=["missing file", "damaged weights", "no connection", "another's lock"])
def test_what_goes_wrong_elsewhere_is_not_told_as_writing(tmp_path, fail):
    """Not even where it happens right beside the folder."""
    (tmp_path / "damaged.safetensors").write_bytes(b"x" * 100)
    with FileLock(tmp_path / "lock", thread_local=False):
        with pytest.raises(Exception) as raised, new_folder(tmp_path / "out"):
            fail(tmp_path)
        assert not isinstance(raised.value, OutputError), raised.value
        with pytest.raises(type(raised.value)):
            write_whole(tmp_path / "file", lambda _: fail(tmp_path))
    assert not (tmp_path / "out").exists() and not (tmp_path / "file").exists()


FULL = """
import pathlib, resource, shutil, signal, sys
import pyarrow, pyarrow.parquet, torch
from safetensors.torch import save_file
from optimum_ssgr.errors import OutputError
from optimum_ssgr.files import new_folder, write_whole
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
here = pathlib.Path(sys.argv[1])
(here / "tree").mkdir()
(here / "tree" / "large").write_bytes(bytes(10000))
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
writers = {
    "text": lambda path: path.write_text("x" * 10000),
    "weights": lambda path: save_file({"a": torch.zeros(10000)}, path),
    "table": lambda path: pyarrow.parquet.write_table(pyarrow.table({"a": list(range(10000))}), path),
    "copy": lambda path: shutil.copy(here / "tree" / "large", path),
    "tree": lambda path: shutil.copytree(here / "tree", path.with_name("copied")),
    "no folder": lambda path: (path.parent / "none" / "file").write_text("x"),
}
for name, write in writers.items():
    try:
        with new_folder(here / "out") as partial:
            write(partial / "file")
    except OutputError as error:
        assert str(error).startswith(f"cannot write {here / 'out'}: "), error
    else:
        raise AssertionError(name)
for name in ("text", "weights", "table", "copy"):
    try:
        write_whole(here / "file", writers[name])
    except OutputError as error:
        assert "make room and run the same command again" in str(error), error
    else:
        raise AssertionError(name)
"""


@pytest.mark.slow
def test_whatever_library_meets_a_full_disk(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tree"]


def test_a_folder_in_use_is_kept(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="is not empty"), new_folder(tmp_path):
        pass
    with pytest.raises(OutputError, match="is a file"), new_folder(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_text() == "x"


def test_two_processes_do_not_write_one_folder(tmp_path):
    """The second is told so, and what the first has written so far stays."""
    with new_folder(tmp_path / "out") as partial:
        (partial / "file").write_text("x")
        with pytest.raises(OutputError, match="another process is writing"), new_folder(tmp_path / "out"):
            pass
    assert (tmp_path / "out" / "file").read_text() == "x"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_run_left_is_cleared(tmp_path):
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "old").write_text("x")
    with new_folder(tmp_path / "out") as partial:
        (partial / "file").write_text("x")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["file"]


def test_an_empty_folder_is_fine(tmp_path):
    (tmp_path / "out").mkdir()
    with new_folder(tmp_path / "out") as partial:
        (partial / "file").write_text("x")
    assert (tmp_path / "out" / "file").exists()
