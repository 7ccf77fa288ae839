"""Records of what is on disk: what is read is written again byte for byte, and what is something else is refused."""

import copy
import json
import re
from pathlib import Path

import pytest

from optimum_ssgr.errors import DataError
from optimum_ssgr.formats import EvaluationRow, Manifest, Provenance


CARDS = Path(__file__).parents[1] / "docs" / "cards"
FILES = ((Manifest, CARDS / "dataset" / "manifest.json"), (Provenance, CARDS / "model" / "ssgr_config.json"))
both = pytest.mark.parametrize(("kind", "path"), FILES, ids=["manifest", "provenance"])


@both
def test_files_come_back_byte_for_byte(kind, path):
    assert kind.from_file(path).to_json() == path.read_text()


def test_keys_that_are_not_always_there_keep_their_places():
    """In sets that were made with text, downloaded, selected again, or noted more of by their maker."""
    plain = json.loads(FILES[0][1].read_text())
    place = {"id": "me/set", "commit": "0" * 40}
    downloaded = plain | {"hub": place}
    with_text = {}
    for key, value in plain.items():
        if key == "engine":
            with_text |= {"text": "allenai/c4:en", "note": [1, None]}
        with_text[key] = value
    own = ("calibration", "counts", "content_hash", "rollouts_hash")
    again = {key: value for key, value in plain.items() if key not in own} | {"rollouts_hash": plain["rollouts_hash"]}
    again["reselected_from"] = {"calibration": plain["calibration"], "content_hash": "f00", "hub": place, "text": "a.txt"}
    again |= {"text": "b.txt"} | {key: plain[key] for key in own[:-1]}
    bare = {key: value for key, value in plain.items() if key not in ("instruction", "problems", "engine", "batch_size")}
    for values in (downloaded, with_text, again, bare | {"rollouts_hash": None}):
        assert json.dumps(Manifest.from_dict(values).to_dict()) == json.dumps(values)


def test_a_checkpoint_without_calibration_or_evaluation():
    provenance = json.loads(FILES[1][1].read_text()) | {"calibration": None, "evaluation": []}
    assert json.dumps(Provenance.from_dict(provenance).to_dict()) == json.dumps(provenance)
    del provenance["evaluation"], provenance["inherited"]
    assert json.dumps(Provenance.from_dict(provenance).to_dict()) == json.dumps(provenance)


def test_a_share_that_is_not_known_is_written():
    row = json.loads(FILES[1][1].read_text())["evaluation"][0] | {"missing_think_end": None}
    assert json.dumps(EvaluationRow.from_dict(row).to_dict()) == json.dumps(row)


@both
@pytest.mark.parametrize("foreign", [None, [], "text", 3, {}, {"model": "gpt2"}])
def test_what_is_something_else_is_refused(kind, path, foreign):
    with pytest.raises(DataError, match=rf"{kind.__name__}.*\.$"):
        kind.from_dict(foreign)


@both
def test_a_value_of_another_type_is_refused_wherever_it_is(kind, path):
    """One sentence names the field, also in what lies within."""
    whole = json.loads(path.read_text())
    for name in whole:
        damaged = copy.deepcopy(whole)
        damaged[name] = 3.5
        with pytest.raises(DataError, match=rf"^{kind.__name__}\.{name} is of the type float; make the file again\.$"):
            kind.from_dict(damaged)
    provenance = json.loads(FILES[1][1].read_text())
    del provenance["calibration"]["counts"]
    with pytest.raises(DataError, match=re.escape("Manifest.counts is missing")):
        Provenance.from_dict(provenance)
    provenance = json.loads(FILES[1][1].read_text())
    provenance["evaluation"][1]["accuracy"] = "high"
    with pytest.raises(DataError, match=re.escape("EvaluationRow.accuracy is of the type str")):
        Provenance.from_dict(provenance)


@both
def test_a_damaged_file_is_refused_by_its_name(kind, path, tmp_path):
    (tmp_path / path.name).write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=rf"{path.name} is not valid JSON"):
        kind.from_file(tmp_path / path.name)
    (tmp_path / path.name).write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=rf"{path.name} is not valid JSON"):
        kind.from_file(tmp_path / path.name)
