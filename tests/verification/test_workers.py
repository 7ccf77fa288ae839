import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing

import psutil
import pytest

from optimum_ssgr.verification.compare import compare_mathematics, is_equal
from optimum_ssgr.verification.workers import compare_all


ENDLESS = ("9^{9^{9^9}}", "5")
EASY = ("x+1", "1+x")
HOSTILE = [
    ENDLESS,
    (r"10^{10^{10}}", "10"),
    (r"\binom{10^9}{5\cdot 10^8}", "1"),
    (r"\prod_{k=1}^{10^9} k", "1"),
    (r"\sin(10^{10000000})", "0.5"),
    ("x^{50}+x+1=0", "x^{50}+x+2=0"),
    ("(x+1)^{100000000}=0", "x=1"),
    ("{" * 500 + "}" * 500, "5"),
    ("(" * 500 + "1" + ")" * 500, "5"),
    (r"\frac{" * 40 + "1" + "}{2}" * 40, "5"),
    (r"\sqrt{" * 120 + "2" + "}" * 120, "5"),
    (r"\text{" * 160, "5"),
    ("\\" * 999, "5"),
    ("\x00\n\r\u2028\ud800", "5"),
]


def children(process):
    return psutil.Process(process).children(recursive=True)


@pytest.fixture
def workers():
    """Tell the workers of this process, which may have started others, such as a browser, for the tests before."""
    others = children(os.getpid())
    return lambda: [child for child in children(os.getpid()) if child not in others]


def wait_for(condition):
    while not (found := condition()):
        time.sleep(0.01)
    return found


def busy(workers):
    """Those workers that compute more than the other does while loading."""
    return [worker for worker in workers if worker.cpu_times().user > 1 + min(other.cpu_times().user for other in workers)]


@pytest.mark.slow
def test_hostile_answers_are_cut_and_the_others_are_not_harmed():
    pairs = [pair for hostile in HOSTILE for pair in (hostile, EASY)]
    verdicts = list(compare_all(pairs, seconds=0.5))
    assert all(verdicts[1::2])
    assert not any(verdicts[::2])
    assert verdicts[0] is None


def test_a_megabyte_of_latex_is_not_parsed():
    assert not is_equal("1+" * 500_000 + "1", "500001")
    assert not is_equal(r"\frac{1}{" * 100_000 + "}" * 100_000, "1")


@pytest.mark.slow
def test_verdicts_are_those_of_this_process():
    pairs = [(r"\frac{1}{2}", "0.5"), (r"\sqrt8", r"2\sqrt2"), ("x^2-1", "(x-1)(x+1)"), ("x^2", "2x"), ("[1,2)", "(1,2]"), EASY]
    assert list(compare_all(pairs)) == [compare_mathematics(*pair) for pair in pairs]
    assert list(compare_all([])) == []


@pytest.mark.slow
def test_a_worker_killed_from_outside_is_replaced(workers):
    with closing(compare_all([EASY, ENDLESS, EASY, EASY], processes=1, seconds=250)) as verdicts:
        assert next(verdicts) is True
        (worker,) = workers()
        started = worker.cpu_times().user
        killer = threading.Thread(target=lambda: wait_for(lambda: worker.cpu_times().user > started + 1) and worker.kill())
        killer.start()
        assert list(verdicts) == [None, True, True]
        killer.join()


@pytest.mark.slow
def test_closing_early_ends_every_worker(workers):
    with closing(compare_all([EASY, ENDLESS, ENDLESS], processes=2, seconds=250)) as verdicts:
        assert next(verdicts) is True
        assert workers()
    assert not workers()


PARENT = """
from optimum_ssgr.verification.workers import compare_all
pairs = [("x+1", "1+x"), ("9^{9^{9^9}}", "5")]
print(list(compare_all(pairs, processes=2, seconds=%s, megabytes=%s)))
"""


@pytest.fixture
def start(tmp_path):
    """Start a script that does not guard its main module."""

    def start(text):
        script = tmp_path / f"{len(list(tmp_path.iterdir()))}.py"
        script.write_text(text)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        return subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment)

    return start


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux holds processes to one processor")
def test_the_time_is_that_of_the_processor(start):
    """Two that share one processor get half of the time on the clock, and as much of the processor as one alone."""
    shared = """
import os, resource
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from optimum_ssgr.verification.workers import compare_all
def used():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
easy, endless = ("x+1", "1+x"), ("9^{9^{9^9}}", "5")
assert list(compare_all([easy] * 2, processes=2)) == [True] * 2
loading = used()
assert list(compare_all([endless] * 2, processes=2, seconds=1)) == [None] * 2
print(used() - 2 * loading)
"""
    assert float(start(shared).communicate()[0]) > 1.5  # of 2; on the clock it would be 1


@pytest.mark.slow
def test_scripts_need_no_guard(start):
    assert start(PARENT % (2, 1024)).communicate()[0] == "[True, None]\n"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no alarm on Windows")
def test_no_worker_outlives_a_killed_parent(start):
    parent = start(PARENT % (10, 1024))
    workers = wait_for(lambda: len(found := children(parent.pid)) == 2 and found)
    wait_for(lambda: busy(workers))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    ended, alive = psutil.wait_procs(workers, timeout=120)
    assert not alive
    assert len(ended) == 2


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds address space")
def test_memory_is_bounded(start):
    """The kernel itself holds a worker that computes to what it may take."""
    with start(PARENT % (60, 700)) as parent:
        workers = wait_for(lambda: len(found := children(parent.pid)) == 2 and found)
        [worker] = wait_for(lambda: busy(workers))
        assert worker.rlimit(psutil.RLIMIT_AS) == (700 * 2**20, 700 * 2**20)
        parent.kill()


def test_workers_load_nothing_heavy():
    code = (
        "import sys\n"
        "from optimum_ssgr.verification.workers import compare_all, compare_mathematics\n"
        "assert 'sympy' not in sys.modules\n"
        "assert compare_mathematics('x+1', '1+x')\n"
        "assert not {'torch', 'transformers', 'numpy', 'datasets'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
