"""Interrupts: SIGINT waits while the weights change."""

import signal
import threading

import pytest
from small_models import TARGETS, X, bits, regressor

from minidl.callbacks import Callback
from minidl.optimizers import Optimizer
from minidl.trainer.interrupts import Interrupts


def send_sigint():
    signal.raise_signal(signal.SIGINT)


def is_interrupted_by(action):
    """Return whether an action raises KeyboardInterrupt, which would end pytest."""
    try:
        action()
    except KeyboardInterrupt:
        return True
    return False


def test_sigint_is_handled_at_once_if_it_is_not_held():
    with Interrupts():
        assert is_interrupted_by(send_sigint)


def test_held_sigint_is_handled_by_release_and_only_once():
    with Interrupts() as interrupts:
        interrupts.is_held = True
        assert not is_interrupted_by(send_sigint)
        assert not is_interrupted_by(send_sigint)
        assert is_interrupted_by(interrupts.release)
        assert interrupts.is_held is False
        assert not is_interrupted_by(interrupts.release)


def test_release_without_a_signal_does_nothing():
    with Interrupts() as interrupts:
        interrupts.is_held = True
        assert not is_interrupted_by(interrupts.release)
        assert is_interrupted_by(send_sigint)


def test_signal_in_nested_held_blocks_is_handled_after_the_outermost():
    with Interrupts() as interrupts:
        ended = []

        def work():
            with interrupts.held():
                with interrupts.held():
                    send_sigint()
                ended.append("inner")
            ended.append("outer")

        assert is_interrupted_by(work)
        assert ended == ["inner"]
        assert interrupts.is_held is False


def test_handler_of_the_user_is_called_and_restored():
    received = []

    def handler(number, frame):
        received.append(number)

    before = signal.signal(signal.SIGINT, handler)
    try:
        with Interrupts() as interrupts:
            interrupts.is_held = True
            send_sigint()
            assert received == []
            interrupts.release()
        assert received == [signal.SIGINT]
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_handler_is_restored_after_an_exception():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(OverflowError), Interrupts():
        raise OverflowError
    assert signal.getsignal(signal.SIGINT) is before


def test_ignored_sigint_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            interrupts.is_held = True
            assert not is_interrupted_by(send_sigint)
            assert not is_interrupted_by(interrupts.release)
            assert not is_interrupted_by(send_sigint)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_thread_installs_no_handler():
    handlers = []

    def enter():
        with Interrupts() as interrupts:
            handlers.append(signal.getsignal(signal.SIGINT))
            interrupts.is_held = True
            interrupts.release()

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert handlers == [before]


def test_fit_in_a_thread_equals_fit_in_the_main_thread():
    inside, outside = regressor(), regressor()
    thread = threading.Thread(target=lambda: inside.fit(X, TARGETS, epochs=2, verbose=0))
    thread.start()
    thread.join()
    outside.fit(X, TARGETS, epochs=2, verbose=0)
    assert inside.step == 4
    assert bits(inside) == bits(outside)


class InterruptedSGD(Optimizer):
    """Gradient descent that gets SIGINT in the middle of one update."""

    interrupted_update = 1

    def rule(self, weights, gradients, rate, decay):
        half = len(weights) // 2
        weights[:half] -= rate * gradients[:half]
        if self.iterations == self.interrupted_update:
            self.interrupted_update = None
            send_sigint()
        weights[half:] -= rate * gradients[half:]


class Kept(Callback):
    """Callback that keeps the step and the weights after each update."""

    def __init__(self):
        self.after = []

    def on_train_batch_end(self, batch, logs):
        self.after.append((self.model.step, bits(self.model)))


def test_sigint_in_an_update_breaks_the_run_off_after_it():
    whole, kept = regressor(InterruptedSGD(0.1)), Kept()
    whole.optimizer.interrupted_update = None
    whole.fit(X, TARGETS, batch_size=25, epochs=2, verbose=0, callbacks=[kept])
    model = regressor(InterruptedSGD(0.1))
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, TARGETS, batch_size=25, epochs=2, verbose=0)
    assert not model.train_state.is_torn
    assert (model.step, bits(model)) == kept.after[1]
    model.fit(X, TARGETS, batch_size=25, epochs=2, verbose=0, resume=True)
    assert (model.step, bits(model)) == kept.after[3]
    assert model.history.history == whole.history.history


@pytest.mark.parametrize("moment", ["on_train_begin", "on_epoch_begin", "on_epoch_end"])
def test_sigint_in_a_callback_is_handled_at_once(moment):
    def interrupt(self, *_):
        send_sigint()
        reached.append(moment)

    reached = []
    callback = type("Interrupting", (Callback,), {moment: interrupt})()
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        regressor().fit(X, TARGETS, verbose=0, callbacks=[callback])
    assert reached == []
    assert signal.getsignal(signal.SIGINT) is before


class Terminated(KeyboardInterrupt):
    """What a program raises for SIGTERM."""


@pytest.fixture
def sigterm():
    """Let SIGTERM raise Terminated."""

    def terminate(*_):
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    yield terminate
    signal.signal(signal.SIGTERM, before)


def test_held_sigterm_is_handled_by_release(sigterm):
    with Interrupts() as interrupts:
        interrupts.is_held = True
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Terminated):
            interrupts.release()
        with pytest.raises(Terminated):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is sigterm


@pytest.mark.parametrize("usual", [signal.SIG_DFL, signal.SIG_IGN])
def test_sigterm_without_a_handler_is_left_to_the_system(usual):
    before = signal.signal(signal.SIGTERM, usual)
    try:
        with Interrupts():
            assert signal.getsignal(signal.SIGTERM) is usual
    finally:
        signal.signal(signal.SIGTERM, before)


def test_sigterm_in_an_update_breaks_the_run_off_after_it(sigterm):
    class TerminatedSGD(Optimizer):
        def rule(self, weights, gradients, rate, decay):
            half = len(weights) // 2
            weights[:half] -= rate * gradients[:half]
            if self.iterations == 1:
                signal.raise_signal(signal.SIGTERM)
            weights[half:] -= rate * gradients[half:]

    model = regressor(TerminatedSGD(0.1))
    with pytest.raises(Terminated):
        model.fit(X, TARGETS, batch_size=25, epochs=2, verbose=0)
    assert not model.train_state.is_torn
    assert model.step == 2
