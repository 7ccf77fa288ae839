import multiprocessing
import pickle

from optimum_ssgr.chat.stop import SWITCHES, new_switch


def test_switches_are_independent():
    first, second = new_switch(), new_switch()
    first.set()
    assert first.is_set() and not second.is_set()


def test_a_place_used_again_does_not_start_the_old_one():
    first = new_switch()
    later = [new_switch() for _ in range(SWITCHES)]
    assert first.is_set() and not later[-1].is_set()
    first.set()
    assert not later[-1].is_set()


def wait_for(pipe):
    switch = pickle.loads(pipe.recv_bytes())
    pipe.send(switch.is_set())
    while not switch.is_set():
        pass
    pipe.send(True)


def test_a_forked_process_sees_the_switch():
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=wait_for, args=(theirs,))
    process.start()
    switch = new_switch()  # made after the fork, as ZeroGPU's workers live on
    ours.send_bytes(pickle.dumps(switch))
    assert ours.recv() is False
    switch.set()
    assert ours.poll(30) and ours.recv() is True
    process.join(30)
