"""Execution providers of onnxruntime, and libraries of operators that it lacks."""

import os
from collections.abc import Iterable
from pathlib import Path

from onnx_reap.errors import ReapError
from onnx_reap.onnxio.session import onnxruntime


class Providers(list[str]):
    """Execution providers, best first, and what else sessions need to know."""

    libraries: tuple[str, ...] = ()  # Of operators; absolute paths
    threads: int | None = None  # For all sessions that run at once


def execution_providers(
    provider: str | None,
    libraries: Iterable[str | os.PathLike[str]] = (),
    threads: int | None = None,
) -> Providers:
    """Return the execution providers to ask for.

    Parameters
    ----------
    provider : str or None
        `cpu`, `cuda`, or a full name such as `CUDAExecutionProvider`. None takes CUDA when
        onnxruntime offers it, else the CPU.
    libraries : iterable of path
        Libraries of custom operators.
    threads : int, optional
        For all sessions that run at once, on the CPU; all cores by default.

    Raises
    ------
    ReapError
        If this onnxruntime lacks the provider.
    """
    available = onnxruntime().get_available_providers()
    cpu = "CPUExecutionProvider"
    if provider is None:
        provider = "CUDAExecutionProvider" if "CUDAExecutionProvider" in available else cpu
    names = {name.lower(): name for name in available}
    names |= {name.lower().removesuffix("executionprovider"): name for name in available}
    chosen = names.get(provider.lower())
    if chosen is None:
        raise ReapError(
            "--provider: unknown to this onnxruntime",
            got=provider,
            expected=", ".join(available),
            hint="leave --provider out, or for cuda install the extra gpu instead of cpu",
        )
    providers = Providers([chosen] if chosen == cpu else [chosen, cpu])
    providers.libraries = tuple(_checked(Path(library)) for library in libraries)
    providers.threads = threads
    return providers


def _checked(library: Path) -> str:
    """Return the absolute path of a library of operators, once it is known to load."""
    path = library.resolve()
    if not path.is_file():
        raise ReapError(
            f"--custom-op-library {library}: not found", expected="a shared library (.so, .dll)"
        )
    try:
        onnxruntime().SessionOptions().register_custom_ops_library(str(path))
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise ReapError(
            f"--custom-op-library {library}: onnxruntime can't load it",
            got=" ".join(str(error).split()),
            expected="a library of operators that was built for this onnxruntime",
        ) from error
    return str(path)
