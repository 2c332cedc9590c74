"""Being told to stop: noted, agreed on, and everything as before afterwards."""

from __future__ import annotations

import os
import pickle
import signal
import threading

import pytest

from hpc_brainage.training.stop import STOPPED_EXIT, Signals, Stopped, Wish

_NUMBERS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT)


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in _NUMBERS]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP])
def test_the_cluster_s_signals_are_noted_and_end_nothing(number: signal.Signals) -> None:
    before = handlers()
    with Signals() as signals:
        assert signals.wish == Wish.GO_ON
        os.kill(os.getpid(), number)
        assert signals.wish == Wish.STOP
    assert handlers() == before


def test_the_first_ctrl_c_is_noted_and_the_second_one_ends_at_once() -> None:
    before = handlers()
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.wish == Wish.INTERRUPT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert handlers() == before


def test_what_the_cluster_says_outweighs_ctrl_c() -> None:
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.wish == Wish.STOP


def test_a_command_in_the_background_goes_on_ignoring_ctrl_c() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGINT)
            assert signals.wish == Wish.GO_ON
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_training_in_another_thread_leaves_the_signals_alone() -> None:
    before, seen = handlers(), []

    def work() -> None:
        with Signals():
            seen.append(handlers())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_stop_travels_whole_and_has_the_exit_code_for_what_is_to_be_tried_again() -> None:
    stopped = pickle.loads(pickle.dumps(Stopped("runs/base")))
    assert isinstance(stopped, Stopped)
    assert "goes on where this one stopped" in str(stopped)
    assert "runs/base" in str(stopped)
    assert STOPPED_EXIT == os.EX_TEMPFAIL
