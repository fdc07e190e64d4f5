"""Scopes: context managers and decorators that set a context variable."""

import functools
import inspect
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import Any, NamedTuple, Optional, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])
Value = TypeVar("Value")


class Frame(NamedTuple):
    """A value of a scoped variable, the scope that set it, and the frame around it."""

    value: Any
    scope: Optional["Scope"] = None
    outer: Optional["Frame"] = None


class Scope:
    """Context manager and decorator that sets a variable to a new value inside.

    One object can be entered repeatedly, also inside of itself and in several threads or tasks: all
    its state is in the variable. A decorated generator is in the scope while its own code runs.

    Parameters
    ----------
    who : str
        The public name, for errors.
    variable : ContextVar of Frame
        The variable.
    new_value : callable
        Returns its value, at each entry.
    """

    def __init__(self, who: str, variable: ContextVar[Frame], new_value: Callable[[], Any]):
        self._who, self._variable, self._new_value = who, variable, new_value

    def __enter__(self) -> None:
        self._variable.set(Frame(self._new_value(), self, self._variable.get()))

    def __exit__(self, *error: object) -> None:
        frame: Frame | None = self._variable.get()
        while frame is not None and frame.scope is not self:  # a generator waits in another scope
            frame = frame.outer
        if frame is not None and frame.outer is not None:
            self._variable.set(frame.outer)

    def __call__(self, function: F) -> F:
        """Return a function that runs in the scope.

        Raises
        ------
        TypeError
            If it is a class, an asynchronous generator, or not callable.
        """
        is_class = isinstance(function, type)
        if is_class or inspect.isasyncgenfunction(function) or not callable(function):
            raise TypeError(
                f"{self._who}: expected a function, a generator function or a coroutine function, "
                f"got {function!r}. Use `with {self._who}(...):` in its code."
            )

        def plain(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            with self:
                return await function(*args, **kwargs)

        def generator(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            return (yield from self._resumed(function(*args, **kwargs)))

        wrapper: Any = plain
        if inspect.iscoroutinefunction(function):
            wrapper = coroutine
        elif inspect.isgeneratorfunction(function):
            wrapper = generator
        functools.update_wrapper(wrapper, function)
        return wrapper

    def _resumed(self, generator: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """Run a generator, in the scope from each resumption to the next yield."""
        resume: Callable[[], Any] = functools.partial(next, generator)
        while True:
            try:
                with self:
                    item = resume()
            except StopIteration as end:
                return end.value
            try:
                sent = yield item
                resume = functools.partial(generator.send, sent)
            except GeneratorExit:
                with self:
                    generator.close()
                raise
            except BaseException as error:
                resume = functools.partial(generator.throw, error)


@contextmanager
def set_inside(variable: ContextVar[Any], value: Value) -> Iterator[Value]:
    """Set a context variable to a value inside, and restore it afterwards."""
    token = variable.set(value)
    try:
        yield value
    finally:
        variable.reset(token)


def keeps_scopes(function: F) -> F:
    """Decorate a function: after it, the variables of all scopes are as before.

    Ctrl-C can break off the entry or exit of a scope itself, which then stays set in this context;
    so the function runs in its own.
    """

    @functools.wraps(function)
    def kept(*args: Any, **kwargs: Any) -> Any:
        return copy_context().run(function, *args, **kwargs)

    return cast(F, kept)
