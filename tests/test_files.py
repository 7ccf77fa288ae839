import errno

import pytest

from optimum_ssgr.errors import OutputError
from optimum_ssgr.files import new_folder


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
