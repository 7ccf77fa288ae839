"""Runs that are cut off while generating: finished rollouts stay, only the missing ones are generated."""

import itertools
import json
import shutil
import signal
import time
import tracemalloc

import pytest
import torch

from optimum_ssgr import CalibrationConfig, SSGRPruner
from optimum_ssgr.checkpoints.load import load_model
from optimum_ssgr.errors import OutputError
from optimum_ssgr.files import locked_folder
from optimum_ssgr.problems.load import load_problems
from optimum_ssgr.records import Rollout
from optimum_ssgr.rollouts.engine import Request
from optimum_ssgr.rollouts.prompts import encode_prompts
from optimum_ssgr.rollouts.store import open_rollout_store

from ..processes import started


SETTINGS = {"samples_per_problem": 4, "max_new_tokens": 200, "num_sequences": 8}


def run(folder, dtype="float32", batch_size=8, limit=8, **changes):
    """Build a set of 32 rollouts, four of each problem."""
    config = CalibrationConfig(**SETTINGS | changes)
    problems = load_problems("tiny-reasoner", limit=limit, seed=3)
    pruner = SSGRPruner.from_pretrained("tiny-reasoner", dtype=dtype)
    folders = {"journal_dir": folder / "journal", "output_dir": folder / "out"}
    pruner.build_calibration(problems, config, **folders, batch_size=batch_size)


def make_rollout(sample):
    return Rollout("p", sample, (1, 2), tuple(range(sample % 99, 300)), sample % 3 > 0)


def append_without_end(folder):
    """Write one rollout after another, until somebody puts an end to it."""
    with open_rollout_store(folder, {"model": "m"}) as journal:
        for sample in itertools.count():
            journal.append(make_rollout(sample))


def lines(folder):
    path = folder / "journal" / "rollouts.jsonl"
    return path.read_bytes().splitlines(keepends=True) if path.exists() else []


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted((folder / "out").rglob("*")) if path.is_file()}


def copy_journal(source, target):
    shutil.copytree(source / "journal", target / "journal")
    return lines(target)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 17])
def test_killed_and_run_again_gives_the_same_set(tmp_path, uninterrupted, after):
    with started(run, tmp_path, cwd=tmp_path) as running:
        while len(lines(tmp_path)) < after:
            assert running.process.is_alive(), running.err.read_text()
            time.sleep(0.01)
        running.send_signal(signal.SIGKILL)
    kept = [line for line in lines(tmp_path) if line.endswith(b"\n")]
    assert after <= len(kept) < 32
    assert not (tmp_path / "out").exists()
    run(tmp_path)
    assert lines(tmp_path)[: len(kept)] == kept  # nothing finished was generated again
    assert len(lines(tmp_path)) == 32
    assert sorted(lines(tmp_path)) == sorted(lines(uninterrupted))
    assert files(tmp_path) == files(uninterrupted)


@pytest.mark.slow
def test_a_torn_last_line_is_repaired(tmp_path, uninterrupted, caplog):
    whole = copy_journal(uninterrupted, tmp_path)
    (tmp_path / "journal" / "rollouts.jsonl").write_bytes(b"".join(whole[:20]) + whole[20][:-20])
    run(tmp_path)
    assert "removed the last rollout of" in caplog.text
    assert lines(tmp_path)[:20] == whole[:20]
    assert files(tmp_path) == files(uninterrupted)


@pytest.mark.slow
def test_a_full_disk_keeps_what_is_finished(tmp_path, uninterrupted):
    """Files may not grow beyond a size that holds some rollouts; then they may again."""
    with started(run, tmp_path, cwd=tmp_path, file_size=6000) as running:
        assert running.wait() != 0
        assert "make room and run the same command again to go on" in running.err.read_text()
    assert 0 < len(lines(tmp_path)) < 32
    run(tmp_path)
    assert files(tmp_path) == files(uninterrupted)


@pytest.mark.slow
def test_more_samples_and_other_windows_reuse_what_is_there(tmp_path, uninterrupted):
    copy_journal(uninterrupted, tmp_path)
    run(tmp_path, samples_per_problem=5, strategy="self")
    assert lines(tmp_path)[:32] == lines(uninterrupted)
    assert len(lines(tmp_path)) == 40


@pytest.mark.slow
def test_another_run_does_not_go_on(tmp_path, uninterrupted):
    before = copy_journal(uninterrupted, tmp_path)
    with pytest.raises(OutputError, match="sampling was"):
        run(tmp_path, temperature=0.5)
    assert lines(tmp_path) == before


@pytest.mark.slow
def test_in_bfloat16_what_is_finished_stays_and_the_rest_is_answered(tmp_path):
    """No more is promised there: a response that is generated again has other rows beside it."""
    run(tmp_path / "whole", "bfloat16", limit=4)
    before = lines(tmp_path / "whole")
    (tmp_path / "cut" / "journal").mkdir(parents=True)
    for name in ("fingerprint.json", "rollouts.jsonl"):
        shutil.copy(tmp_path / "whole" / "journal" / name, tmp_path / "cut" / "journal")
    (tmp_path / "cut" / "journal" / "rollouts.jsonl").write_bytes(b"".join(before[:7]))
    run(tmp_path / "cut", "bfloat16", limit=4)
    after = lines(tmp_path / "cut")
    assert after[:7] == before[:7]
    answered = [{(row["problem_id"], row["sample"], row["prompt"]) for row in map(json.loads, of)} for of in (before, after)]
    assert answered[0] == answered[1] and len(after) == 16


@pytest.mark.parametrize(("dtype", "most"), [("float32", 1e-6), ("bfloat16", 0.02)])
def test_how_much_the_rows_beside_a_row_matter(dtype, most):
    """The chance that a token is another one, by how far the probabilities of the next token move: what the guarantees say."""
    model, tokenizer = load_model("tiny-reasoner", dtype=dtype)
    prompts = list(encode_prompts(tokenizer, load_problems("tiny-reasoner", limit=16, seed=3), "").values())
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)

    def probabilities(rows, left=0):
        given = {"attention_mask": mask[rows, left:], "position_ids": positions[rows, left:]}
        return model(ids[rows, left:], **given).logits[:, -1].float().softmax(dim=-1)

    with torch.no_grad():
        together = probabilities(slice(None))
        alone = torch.cat([probabilities([row], width - len(prompt)) for row, prompt in enumerate(prompts)])
    moved = (together - alone).abs().sum(dim=-1).max().item() / 2
    assert 0 < moved < most


def test_another_batch_size_is_another_run(tmp_path, uninterrupted):
    before = copy_journal(uninterrupted, tmp_path)
    with pytest.raises(OutputError, match="batch_size was 8 and is now 4"):
        run(tmp_path, batch_size=4)
    assert lines(tmp_path) == before


def test_two_processes_do_not_share_a_journal(tmp_path, reasoner):
    with locked_folder(tmp_path / "journal"), pytest.raises(OutputError, match="another process is writing into"):
        SSGRPruner(*reasoner).generate_rollouts(
            [{"problem": "q", "answer": "a"}], CalibrationConfig(max_new_tokens=20), journal_dir=tmp_path / "journal"
        )


def test_damage_and_other_questions_are_named(tmp_path):
    request = Request("p", 0, (1, 2), 7)
    with open_rollout_store(tmp_path, {"model": "m"}) as journal:
        journal.append(Rollout("p", 0, (1, 2), (3, 400), True))
    with open_rollout_store(tmp_path, {"model": "m"}) as journal:
        assert journal.find(request) == Rollout("p", 0, (1, 2), (3, 400), True)
        assert journal.find(Request("p", 1, (1, 2), 7)) is None
        with pytest.raises(OutputError, match="rollouts of another question under the name p"):
            journal.find(Request("p", 0, (1, 2, 3), 7))
    path = tmp_path / "rollouts.jsonl"
    path.write_bytes(b'{"problem_id": 3}\n' + path.read_bytes())
    with (
        pytest.raises(OutputError, match=r"line 1 of .* is damaged; remove that line"),
        open_rollout_store(tmp_path, {"model": "m"}),
    ):
        pass


def test_ids_stay_in_the_file_and_can_be_read_as_long_as_a_rollout_lives(tmp_path):
    made = [Rollout("p", sample, (1, 2), range(sample, 150_000, 1 + sample), True) for sample in range(3)]
    with open_rollout_store(tmp_path, {"model": "m"}) as journal:
        appended = [journal.append(rollout) for rollout in made]
        assert appended == made
    tracemalloc.start()
    with open_rollout_store(tmp_path, {"model": "m"}) as journal:
        found = [journal.find(Request("p", sample, (1, 2), 7)) for sample in range(3)]
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 100_000  # one byte for three tokens
    (tmp_path / "rollouts.jsonl").unlink()
    assert [len(rollout.response_ids) for rollout in found] == [150_000, 75_000, 50_000]
    assert found == appended == made


def test_a_journal_whose_writer_was_killed_holds_whole_rollouts_and_is_gone_on_with(tmp_path):
    with started(append_without_end, tmp_path / "journal", cwd=tmp_path) as running:
        while len(lines(tmp_path)) < 21:
            assert running.process.is_alive(), running.err.read_text()
        running.send_signal(signal.SIGKILL)
    whole = sum(line.endswith(b"\n") for line in lines(tmp_path))
    assert whole >= 20
    for more in (5, 10):
        with open_rollout_store(tmp_path / "journal", {"model": "m"}) as journal:
            found = [journal.find(Request("p", sample, (1, 2), 7)) for sample in range(whole + more)]
            missing = [sample for sample, rollout in enumerate(found) if rollout is None]
            assert missing == list(range(whole + more - 5, whole + more))
            found[whole + more - 5 :] = [journal.append(make_rollout(sample)) for sample in missing]
            assert found == [make_rollout(sample) for sample in range(whole + more)]


def test_what_is_written_after_a_torn_line_is_read_from_its_place(tmp_path):
    made = [Rollout("p", sample, (1, 2), tuple(range(10 + sample)), sample != 1) for sample in range(3)]
    with open_rollout_store(tmp_path, {"model": "m"}) as journal:
        journal.append(made[0])
        journal.append(made[1])
    path = tmp_path / "rollouts.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    for _ in range(2):
        with open_rollout_store(tmp_path, {"model": "m"}) as journal:
            kept = [journal.find(Request("p", sample, (1, 2), 7)) for sample in range(3)]
            if kept[1] is None:
                kept = [kept[0], journal.append(made[1]), journal.append(made[2])]
            assert kept == made


@pytest.mark.parametrize("ids", ['"AAAA"', '"%%%%"', "5", "null", "[1e300]", '"AQAAAA="'])
def test_damaged_ids_are_named(tmp_path, ids):
    with open_rollout_store(tmp_path, {"model": "m"}) as journal:
        journal.append(Rollout("p", 0, (1, 2), (3, 400), True))
    path = tmp_path / "rollouts.jsonl"
    row = json.loads(path.read_bytes()) | {"sample": 1}
    path.write_bytes(path.read_bytes() + json.dumps(row | {"response_ids": json.loads(ids)}).encode() + b"\n")
    with pytest.raises(OutputError, match=r"line 2 of .* is damaged"), open_rollout_store(tmp_path, {"model": "m"}):
        pass


def test_a_journal_of_the_first_version_is_read(tmp_path):
    with open_rollout_store(tmp_path, {"model": "m"}) as journal:
        journal.append(Rollout("p", 0, (1, 2), (3, 400), True))
    path = tmp_path / "rollouts.jsonl"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"response_ids": [5, 600]}) + "\n")
    with open_rollout_store(tmp_path, {"model": "m"}) as journal:
        assert journal.find(Request("p", 0, (1, 2), 7)).response_ids == (5, 600)
