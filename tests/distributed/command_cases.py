"""Calls of the training command, one after the other, in each process that mpiexec started.

The argument is a JSON list of cases. A case has the arguments of each rank, and may name a rank
that sends itself a signal in its 40th step. Each rank writes a JSON list to ``rank-N.json``: exit
status, output and errors of each case. No case writes the page of its run, whose pictures take
seconds.
"""

import contextlib
import io
import json
import signal
import sys

from minidl.commands import train, train_results
from minidl.distributed import DataParallel

Guard = train.callbacks.TerminateOnNaN


class Interrupted(Guard):
    """A callback of each worker that sends a signal to its process."""

    number = 0

    def on_train_batch_end(self, batch, logs):
        super().on_train_batch_end(batch, logs)
        if self.model.step == 40:
            signal.raise_signal(self.number)


def result_of(case, rank):
    """Return what the command returns and prints."""
    out, err = io.StringIO(), io.StringIO()
    train.callbacks.TerminateOnNaN = Guard
    if case.get("interrupted") == rank:
        train.callbacks.TerminateOnNaN = Interrupted
        Interrupted.__name__, Interrupted.number = "TerminateOnNaN", signal.Signals[case["signal"]]
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, 0)):
        signal.signal(number, handler)
    arguments = case["arguments"]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = train.main(arguments[min(rank, len(arguments) - 1)])
        except SystemExit as error:
            status = error.code
    return status, out.getvalue(), err.getvalue()


if __name__ == "__main__":
    rank = DataParallel().rank
    train_results.write_report = lambda *_: ""
    results = [result_of(case, rank) for case in json.loads(sys.argv[1])]
    with open(f"rank-{rank}.json", "w", encoding="utf-8") as file:
        json.dump(results, file)
