"""How many threads compute: those of onnxruntime's sessions, and those of the BLAS behind NumPy."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

from loky import cpu_count
from threadpoolctl import ThreadpoolController

from onnx_reap.options import OPTIONS

Given = ParamSpec("Given")
Result = TypeVar("Result")


def available() -> int:
    """Return how many cores this process may use.

    Those that it is bound to, and no more than a container's share of the machine.
    """
    return int(cpu_count())


def in_session(threads: int | None, at_once: int = 1) -> int:
    """Return how many threads one of some sessions takes; 0 leaves it to onnxruntime.

    Left to itself, onnxruntime counts the cores of the machine and pins a thread to each, also to
    those that this process may not use.

    Parameters
    ----------
    threads : int, optional
        For all sessions that run at once; all cores by default.
    """
    count = threads or available()
    return 0 if at_once == 1 and count == os.cpu_count() else max(count // at_once, 1)


@contextmanager
def blas(threads: int | None) -> Iterator[None]:
    """Keep BLAS to some threads; by default to the cores, if it would take more.

    Threads of BLAS wait for each other by spinning. Where there are more of them than cores, they
    wait for those that can't run.
    """
    controller = ThreadpoolController().select(user_api="blas")
    now = max((library["num_threads"] for library in controller.info()), default=1)
    with controller.limit(limits=threads or (available() if now > available() else None)):
        yield


def on_given_threads(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Keep BLAS to the threads that a keyword of a function names, see `blas`."""

    @wraps(function)
    def limited(*args: Given.args, **keywords: Given.kwargs) -> Result:
        with blas(OPTIONS["threads"].accept(keywords.get("threads"))):
            return function(*args, **keywords)

    return limited
