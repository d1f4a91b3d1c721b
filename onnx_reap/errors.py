"""Refusals: one sentence that says what is wrong, what was seen, what is needed and what to try."""


class ReapError(Exception):
    """A request that can't be honoured, as opposed to a bug in this package.

    Parameters
    ----------
    what : str
        What is wrong, naming the argument, file or node.
    got, expected : str, optional
        What was seen, and what would have been accepted.
    hint : str, optional
        What the user can try.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        got: str | None = None,
        expected: str | None = None,
        hint: str | None = None,
    ) -> None:
        labelled = (("got", got), ("expected", expected), ("try", hint))
        parts = [what, *(f"{label}: {text}" for label, text in labelled if text is not None)]
        super().__init__(" | ".join(" ".join(part.split()) for part in parts))


class UsageError(ReapError):
    """Arguments that contradict each other or can't be read."""

    exit_code = 2


class TargetError(ReapError):
    """A budget that no allowed plan reaches."""

    exit_code = 3


class CheckError(ReapError):
    """The pruned model failed verification; nothing is written."""

    exit_code = 3


class MissingKernelError(ReapError):
    """A model that onnxruntime can't load since it doesn't implement an operator.

    Parameters
    ----------
    operator : str
        The operator.
    """

    def __init__(self, operator: str, what: str, *, got: str, hint: str) -> None:
        super().__init__(what, got=got, hint=hint)
        self.operator = operator
