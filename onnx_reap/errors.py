"""Refusals: one sentence that says what is wrong, what was seen, what is needed and what to try."""

import re
from collections.abc import Collection, Sequence


class ReapError(Exception):
    """A request that can't be honoured, as opposed to a bug in this package.

    Parameters
    ----------
    what : str
        What is wrong, naming the argument, file or node.
    got, expected : str, optional
        What was seen, and what would have been accepted.
    hint : str or sequence of str, optional
        What the user can try: several ways are alternatives. A command leaves out those that name
        options of other commands, see `told_to`.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        got: str | None = None,
        expected: str | None = None,
        hint: str | Sequence[str] | None = None,
    ) -> None:
        labelled = (("got", got), ("expected", expected))
        parts = [what, *(f"{label}: {text}" for label, text in labelled if text is not None)]
        self._facts = " | ".join(" ".join(part.split()) for part in parts)
        self.hints = (hint,) if isinstance(hint, str) else tuple(hint or ())
        super().__init__(self._with(self.hints))

    def told_to(self, flags: Collection[str], others: Collection[str]) -> str:
        """Return the message for a command.

        Parameters
        ----------
        flags, others : collection of str
            Flags that the command takes, and all that there are: ways out that name one of the
            others are left out.
        """
        return self._with([h for h in self.hints if not (named(h) & {*others}) - {*flags}])

    def _with(self, hints: Sequence[str]) -> str:
        return (
            f"{self._facts} | try: {' '.join(', or '.join(hints).split())}"
            if hints
            else self._facts
        )


def named(text: str) -> set[str]:
    """Return the flags that a text names."""
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))


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
