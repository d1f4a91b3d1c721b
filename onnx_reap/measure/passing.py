"""Which parts of a change pass a check."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from onnx_reap.errors import CheckError

Part = TypeVar("Part")
Result = TypeVar("Result")


def keep_passing(
    parts: Sequence[Part], check: Callable[[list[Part]], Result]
) -> tuple[list[Part], list[tuple[Part, CheckError]], Result | None]:
    """Find the parts of a change with which a check passes.

    Returns
    -------
    kept : list
        All parts; where they fail together, those that pass alone; none where these fail together.
    refused : list of (part, CheckError)
    result : optional
        What the check returned for the parts that are kept; None where none passes.
    """
    try:
        return list(parts), [], check(list(parts))
    except CheckError:
        tried = [(part, _failure(check, part)) for part in parts]
    kept = [part for part, error in tried if error is None]
    refused = [(part, error) for part, error in tried if error is not None]
    try:
        return kept, refused, check(kept)
    except CheckError as error:  # each alone is right, and together they are not
        return [], [(part, error) for part in parts], None


def _failure(check: Callable[[list[Part]], object], part: Part) -> CheckError | None:
    try:
        check([part])
    except CheckError as error:
        return error
    return None
