"""The processes of a study, apart from what they do."""

import os
import signal
import subprocess
import sys

import pytest

from optimum_ssgr.study.workers import _block_sigint, device_environments


def test_every_process_has_a_gpu_of_its_own():
    def dealt(processes, devices, device_map="cuda", **environment):
        return [of.get("CUDA_VISIBLE_DEVICES") for of in device_environments(processes, devices, device_map, environment)]

    assert dealt(4, 4) == ["0", "1", "2", "3"]
    assert dealt(2, 4, "auto") == ["0,2", "1,3"]
    assert dealt(4, 2) == ["0", "1", "0", "1"]
    assert dealt(2, 2, CUDA_VISIBLE_DEVICES="5,GPU-3a") == ["5", "GPU-3a"]
    # One process keeps all of them; nothing is dealt out without GPUs, with only one, or where the user names one.
    assert dealt(1, 4) == [None]
    assert dealt(2, 1) == dealt(2, 0) == dealt(2, 0, CUDA_VISIBLE_DEVICES="") == dealt(2, 4, "cuda:1") == [None, None]


def test_ctrl_c_while_processes_start_is_heard_once_and_here():
    listening = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), _block_sigint():
        process = subprocess.Popen([sys.executable, "-S", "-c", "print(input())"], stdin=-1, stdout=-1, text=True)
        process.send_signal(signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert process.communicate("alive") == ("alive\n", None)
    assert signal.getsignal(signal.SIGINT) is listening
