"""What an option is: a field of a dataclass that knows its flag, its values and its help.

The criteria, which one option names and the run asks, are listed here, too.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from onnx_reap.errors import UsageError
from onnx_reap.parsing import LABELS, Kind

R = TypeVar("R")


@dataclass(frozen=True)
class Option:
    """One option of the command."""

    name: str  # As Python and argparse call it
    kind: Kind  # Which values it takes
    # What the help says, and under which heading
    help: str
    group: str
    # Its value if it isn't given, and if its flag stands without a value
    default: Any = None
    alone: Any = None
    shown: str | None = None  # What the help tells of the default instead of the value
    shown_without_data: str | None = None  # The same in commands that take no data
    metavar: str | None = None  # What the help puts for a value instead of what the kind does
    role: str | None = None  # `ratio` and `target` are budgets, `zeros` sets weights to zero
    lossless: bool = False  # Whether `--lossless` may stand beside it
    commands: tuple[str, ...] = ()  # What takes it, of options that are no settings
    # Whether it has no flag; whether it must be given; whether its file is written, not read
    positional: bool = False
    required: bool = False
    written: bool = False
    short: str | None = None  # Another flag

    @property
    def flag(self) -> str:
        """What the command calls it; one that is on by default has a flag that turns it off."""
        return "--" + ("no_" * (self.default is True) + self.name).replace("_", "-")

    @property
    def positive_flag(self) -> str:
        """What messages to Python call it, which says refit=False, not no_refit."""
        return "--" + self.name.replace("_", "-")

    def accept(self, value: Any) -> Any:
        """Return a value that Python passes as the settings hold it."""
        if value is None and self.default is None:
            return None
        if self.alone is not None and isinstance(value, bool):
            return self.alone if value else None
        return self.kind.accept(self.positive_flag, value)

    def files(self, value: Any) -> dict[str, Path]:
        """Return the files that a value of the command names, by what the user calls them."""
        if self.kind.read is not Path or value is None:
            return {}
        if self.positional:
            return {f"the {'output' if self.written else 'input'} model": value}
        if isinstance(value, list):
            return {f"{self.flag} {path}": path for path in value}
        return {self.flag: value}


@dataclass(frozen=True)
class Criterion:
    """How channels are ranked; the module of its name in `prune.criteria` does it."""

    goes_by: str  # What decides, for the help
    paper: str = ""
    runs: bool = False  # Whether it looks at activations; weights alone otherwise
    pools: bool = False  # Whether it looks at each sample's feature maps and outputs, pooled
    # Whether it has an order of its own; it comes with the errors of removal otherwise
    ranks: bool = True
    merges: bool = False  # Whether units that stay take over what others bring
    package: str | None = None  # Module that it needs, which the extra `methods` brings


CRITERIA = {
    "reap": Criterion(
        "error after the refit",
        "Kamma and Wada, Reconstruction Error Aware Pruning, IEICE Trans. E104-D(1), 2021",
        runs=True,
        ranks=False,
    ),
    "l1": Criterion(
        "sum of absolute weights",
        "Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017",
    ),
    "l2": Criterion(
        "norm of the weights",
        "Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017",
    ),
    "fpgm": Criterion(
        "distance to all other filters",
        "He et al., Filter Pruning via Geometric Median, CVPR 2019",
    ),
    "fold": Criterion(
        "merging of filters that are alike",
        "Wang et al., Just Fold the Network to Compress, ICLR 2025",
        package="scipy",
        merges=True,
    ),
    "wanda": Criterion(
        "weights times norms of inputs",
        "Sun et al., A Simple and Effective Pruning Approach for LLMs, ICLR 2024",
        runs=True,
    ),
    "thinet": Criterion(
        "error without a refit",
        "Luo et al., ThiNet, ICCV 2017",
        runs=True,
    ),
    "lasso": Criterion(
        "LASSO on what channels add",
        "He et al., Channel Pruning for Accelerating Very Deep Neural Networks, ICCV 2017",
        runs=True,
        package="sklearn",
    ),
    "nu": Criterion(
        "error if one other channel emulates it",
        "Kamma et al., Neural Behavior-Based Approach, IEICE Trans. E103-D(5), 2020",
        runs=True,
        merges=True,
    ),
    "similarity": Criterion(
        "merging of channels of like mean and variance",
        "Zhang et al., Exploiting Channel Similarity, arXiv:1908.02620",
        runs=True,
        package="scipy",
    ),
    "pls": Criterion(
        "share in explaining outputs or labels",
        "Jordao et al., Pruning Deep Neural Networks using Partial Least Squares, arXiv:1810.07610",
        runs=True,
        pools=True,
        package="sklearn",
    ),
    "random": Criterion("chance"),
}


def option(kind: Kind, **shared: Any) -> Callable[..., Any]:
    """Make a function that makes a field of a dataclass an option, of its help and its default."""

    def of(help: str, default: Any = None, **others: Any) -> Any:
        return field(default=default, metadata={"kind": kind, "help": help, **shared, **others})

    return of


def options_of(record: type) -> dict[str, Option]:
    """Return the options that the fields of a dataclass are, by name."""
    return {f.name: Option(f.name, default=f.default, **f.metadata) for f in fields(record)}


class Record:
    """Base of dataclasses whose fields are options."""

    @classmethod
    def make(cls: type[R], given: Mapping[str, Any], keywords: type | None = None) -> R:
        """Make a record of what a caller gives by name, and check each value.

        Parameters
        ----------
        keywords : subclass of TypedDict, optional
            The names that mean something to the caller, if not all.
        """
        options = options_of(cls)
        _check_names(given, options, options if keywords is None else keywords.__annotations__)
        return cls(**{name: options[name].accept(value) for name, value in given.items()})

    def chosen(self) -> dict[str, Any]:
        """Return the values that differ from the defaults; of a table or labels, what they are."""
        options = options_of(type(self))
        values = {name: _plain(each.kind, getattr(self, name)) for name, each in options.items()}
        return {name: value for name, value in values.items() if value != options[name].default}


def _check_names(
    given: Collection[str], options: Mapping[str, Option], known: Collection[str]
) -> None:
    """Refuse options that mean nothing to a command; all are given by name."""
    if unknown := [name for name in given if name not in options]:
        near = get_close_matches(unknown[0], known, 1)
        hint = near[0] if near else None
        raise UsageError(
            "unknown settings", got=", ".join(unknown), expected=", ".join(known), hint=hint
        )
    if idle := [name for name in given if name not in known]:
        flags = [options[name].flag for name in idle]
        expected = ", ".join(each.flag for name, each in options.items() if name in known)
        raise UsageError("settings that don't apply here", got=", ".join(flags), expected=expected)


def _plain(kind: Kind, value: Any) -> Any:
    """Return what a report says of a value: of what is large or code, only what it is."""
    if is_dataclass(value):
        return str(value)
    if callable(value):
        name = getattr(value, "__qualname__", type(value).__qualname__)
        return f"{getattr(value, '__module__', type(value).__module__)}:{name}"
    if kind is LABELS and value is not None and not isinstance(value, (str, Path)):
        return f"{len(value)} given"
    return value
