"""Progress output: bars on a terminal, lines elsewhere."""

import re
import sys

import numpy as np
import pytest
from callback_cases import X, Y, network

from minidl.callbacks import Callback

LINE = r"Epoch \d/2 - \d+\.\d s - loss: \d+\.\d{4} - val_loss: \d+\.\d{4}"


def use_terminal(monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)


@pytest.mark.parametrize("verbose", ["auto", 1, 2])
def test_file_gets_a_line_for_each_epoch(verbose, capsys):
    network().fit(X, Y, epochs=2, validation_data=(X, Y), verbose=verbose)
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert len(lines) == 2
    assert all(re.fullmatch(LINE, line) for line in lines)
    assert [line[:9] for line in lines] == ["Epoch 1/2", "Epoch 2/2"]
    assert printed.err == ""


def test_terminal_gets_a_bar_and_then_the_line(capsys, monkeypatch):
    use_terminal(monkeypatch)
    network().fit(X, Y, batch_size=2, epochs=2, validation_data=(X, Y), verbose=1)
    printed = capsys.readouterr().out
    assert "Epoch 1/2:" in printed
    assert "/6 [" in printed  # the bar, of 6 steps
    assert len(re.findall(LINE, printed)) == 2


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a note", "a note"),
        (None, "None"),
        (np.float32(0.5), "0.5000"),
        (3.1e-06, "3.1000e-06"),
        (np.array([1, 2]), "[1 2]"),
    ],
)
@pytest.mark.parametrize("verbose", [1, 2])
def test_line_shows_values_that_callbacks_add(value, text, verbose, capsys):
    class Adds(Callback):
        def on_epoch_end(self, epoch, logs):
            logs["mine"] = value

    network().fit(X, Y, verbose=verbose, callbacks=[Adds()])
    assert capsys.readouterr().out.endswith(f" - mine: {text}\n")


def test_terminal_gets_no_bar_with_verbose_2(capsys, monkeypatch):
    use_terminal(monkeypatch)
    network().fit(X, Y, epochs=2, validation_data=(X, Y), verbose=2)
    assert all(re.fullmatch(LINE, line) for line in capsys.readouterr().out.splitlines())


def test_verbose_0_prints_nothing(capsys):
    network().fit(X, Y, epochs=2, verbose=0)
    assert capsys.readouterr() == ("", "")


class StopAtBatch(Callback):
    """Callback that stops training after the second batch."""

    def on_train_batch_end(self, batch, logs):
        self.model.stop_training = batch == 1


def test_epoch_that_is_not_completed_prints_no_line(capsys):
    network().fit(X, Y, batch_size=2, callbacks=[StopAtBatch()], verbose=1)
    assert capsys.readouterr().out == ""


def test_bar_of_a_resumed_epoch_begins_at_its_batch(capsys, monkeypatch):
    use_terminal(monkeypatch)
    model = network()
    model.fit(X, Y, batch_size=2, callbacks=[StopAtBatch()], verbose=0)
    model.fit(X, Y, batch_size=2, verbose=1, resume=True)
    assert re.search(r"\b[23]/6 \[", capsys.readouterr().out)
