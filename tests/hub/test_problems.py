"""Problems on the Hub: exact, and without what stands beside them."""

import io
import os

import pyarrow
import pyarrow.parquet
import pytest
from huggingface_hub import HfApi

from tests.hub_server import reading


NAME = "alice/traced"
ASK = """
from optimum_ssgr.problems.load import load_problems
for options in ({}, {"limit": 50, "seed": 1}):
    problems = load_problems(NAME, **options)
    print(len(problems), problems[0].answer, problems[0].source)
"""


@pytest.fixture
def sent(monkeypatch):
    """How many bytes of each file were sent."""
    found, ranged = [], reading.ranged

    def counted(request, data, headers):
        response = ranged(request, data, headers)
        if request.method == "GET":
            found.append((request.path_params["path"], len(response.body)))
        return response

    monkeypatch.setattr(reading, "ranged", counted)
    return lambda ending: sum(size for path, size in found if path.endswith(ending))


@pytest.mark.slow
def test_of_problems_with_traces_the_problems_alone_are_downloaded(hub, in_fresh_process, sent):
    traces = [os.urandom(20_000).hex() for _ in range(300)]  # which do not compress much
    columns = {"problem": [f"{n} + 1?" for n in range(300)], "traces": traces, "answer": [f"{n + 1:03}" for n in range(300)]}
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), file, row_group_size=50, use_dictionary=False)
    HfApi().create_repo(NAME, repo_type="dataset")
    files = {"data/train-00000-of-00001.parquet": hub.store(file.getvalue())}
    commit = hub.repo(NAME, "datasets").add_commit("main", "data", files)
    everything, drawn = in_fresh_process(f"NAME = {NAME!r}\n{ASK}").splitlines()
    assert everything == f"300 001 {NAME}@{commit.sha}"
    assert drawn.startswith("50 ") and drawn.endswith(f"{NAME}@{commit.sha}")
    assert sent(".parquet") < 0.1 * len(file.getvalue())


@pytest.mark.slow
def test_answers_in_files_of_text_are_exact(hub, in_fresh_process):
    big = "123456789012345678901234567890"
    for name, path, content in (
        ("alice/lines", "train.jsonl", f'{{"problem": "a", "answer": {big}}}\n'),
        ("alice/table", "train.csv", f"problem,answer\na,{big}\n"),
        ("alice/zeros", "train.csv", "problem,answer\na,007\n"),
    ):
        HfApi().create_repo(name, repo_type="dataset")
        hub.repo(name, "datasets").add_commit("main", "data", {path: hub.store(content.encode())})
        everything, _ = in_fresh_process(f"NAME = {name!r}\n{ASK}").splitlines()
        assert everything.split()[1] == ("007" if name == "alice/zeros" else big)
