"""Optional packages, which minidl's extras install."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def from_extra(extra: str, package: str, *, who: str) -> Iterator[None]:
    """Raise ImportError with the command that installs `package` if an import within fails.

    Examples
    --------
    >>> with from_extra("keras", "h5py", who="weights"):
    ...     import no_such_package
    Traceback (most recent call last):
    ImportError: weights: expected h5py to be installed. Run pip install 'minidl[keras]'.
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f"{who}: expected {package} to be installed. Run pip install 'minidl[{extra}]'."
        ) from error
