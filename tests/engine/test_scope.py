"""Scopes: no_grad and the modes of random layers, as context managers and decorators."""

import asyncio
import threading

import pytest

from minidl import no_grad, rng
from minidl.engine.backward import is_recording

SCOPES = {
    "no_grad": (no_grad, lambda: not is_recording()),
    "training": (lambda: rng.training(step=1), rng.is_training),
    "monte_carlo": (lambda: rng.monte_carlo(sample=0, row_offset=0), rng.is_training),
    "inference": (rng.inference, lambda: not rng.is_training()),
}


@pytest.fixture(params=SCOPES)
def scope(request):
    """Return a new scope, and a function that returns whether the caller is in it."""
    make, is_inside = SCOPES[request.param]
    if request.param != "inference":
        yield make(), is_inside
        return
    with rng.training():
        yield make(), is_inside


def test_scope_can_be_entered_within_itself(scope):
    scope, is_inside = scope
    with scope:
        with scope:
            assert is_inside()
        assert is_inside()
    assert not is_inside()


def test_scope_can_be_entered_again(scope):
    scope, is_inside = scope
    for _ in range(2):
        with scope:
            assert is_inside()
        assert not is_inside()


def test_scope_ends_on_exception(scope):
    scope, is_inside = scope
    with pytest.raises(KeyError), scope, scope:
        raise KeyError
    assert not is_inside()


@pytest.mark.parametrize("name", ["no_grad", "training", "monte_carlo"])
def test_scope_is_entered_by_threads_separately(name):
    make, is_inside = SCOPES[name]
    scope, both, found = make(), threading.Barrier(2), []

    def other():
        found.append(is_inside())
        with scope:
            both.wait(30)  # inside, while the first thread is
            both.wait(30)  # the first thread has left
            found.append(is_inside())
        found.append(is_inside())

    thread = threading.Thread(target=other)
    with scope:
        thread.start()
        both.wait(30)
    assert not is_inside()
    both.wait(30)
    thread.join(30)
    assert found == [False, True, False]


def test_scope_is_entered_by_tasks_separately(scope):
    scope, is_inside = scope

    @scope
    async def task():
        await asyncio.sleep(0)
        return is_inside()

    async def main():
        results = asyncio.gather(task(), task())
        await asyncio.sleep(0)
        return [is_inside(), *await results]

    assert asyncio.run(main()) == [False, True, True]


def test_scope_decorates_functions_and_methods(scope):
    scope, is_inside = scope

    class Some:
        @scope
        def method(self, depth):
            """Return where it is."""
            return [is_inside(), *(self.method(depth - 1) if depth else ())]

    assert Some().method(2) == [True] * 3
    assert (Some.method.__name__, Some.method.__doc__) == ("method", "Return where it is.")
    assert not is_inside()


def test_decorated_generator_is_in_scope_only_while_it_runs(scope):
    scope, is_inside = scope
    closed = []

    @scope
    def generator():
        try:
            sent = yield is_inside()
            try:
                yield sent, is_inside()
            except KeyError:
                yield "caught", is_inside()
            return "result"
        finally:
            closed.append(is_inside())

    def delegating():
        return (yield from generator())

    steps = delegating()
    assert next(steps) is True
    assert not is_inside()
    assert steps.send("sent") == ("sent", True)
    assert steps.throw(KeyError) == ("caught", True)
    assert not is_inside()
    with pytest.raises(StopIteration, match="result"):
        next(steps)
    other = generator()
    next(other)
    other.close()
    assert closed == [True, True]
    assert not is_inside()


def test_scope_ends_while_a_generator_waits_in_another(scope):
    scope, is_inside = scope

    def generator():
        with SCOPES["no_grad"][0](), rng.training():
            yield

    with scope:
        waiting = generator()
        next(waiting)
    assert not is_inside()
    assert list(waiting) == []
    assert not is_inside()


async def numbers():
    yield 1


@pytest.mark.parametrize("thing", [int, type("Some", (), {}), numbers, 3, classmethod(len)])
def test_scope_rejects_decorating_other_things(thing):
    with pytest.raises(TypeError, match=r"no_grad: expected a function"):
        no_grad()(thing)
