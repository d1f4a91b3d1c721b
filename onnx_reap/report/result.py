"""What a run gives its caller: a pruned model, its report and its plan."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import onnx

from onnx_reap.errors import UsageError
from onnx_reap.onnxio.files import Content, check_outputs, write_all
from onnx_reap.onnxio.light_model import LightModel
from onnx_reap.onnxio.save import data_path, model_files
from onnx_reap.prune.plan import Plan
from onnx_reap.report.records import Report


@dataclass(frozen=True)
class Result:
    """A pruned model, what happened, and how to do it again.

    Attributes
    ----------
    light : LightModel
        The model. Files that weights of the original lie in have to stay as they are: weights that
        did not change are read from there.
    report : Report
    plan : Plan
    """

    light: LightModel = field(repr=False)
    report: Report
    plan: Plan

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The model with all its weights; beyond 2 GB only `save` writes it."""
        self.light.check_unchanged()
        return self.light.whole()

    def files(self, path: Path) -> dict[Path, Content]:
        """Return the files of the model, to be written to `path`; the model's own is the last."""
        self.light.check_unchanged()
        return model_files(path, self.light)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model: in one file, or in two if weights of the original lie in other files.

        Two if the original is larger than 2 GB as well: beside `path` comes a file of its name with
        `.data` behind it. Both appear whole, or none does, and the same model is the same bytes.

        Raises
        ------
        ReapError
            If a file can't be written, or holds weights of the original, or such a file changed.
        """
        if not isinstance(path, (str, os.PathLike)):
            raise UsageError("path: no path", got=repr(path), expected="where the model goes")
        path = Path(path)
        files = self.files(path)
        names = {path: "the output model", data_path(path): "the data of the output model"}
        inputs = {f"the input's data {each.path}": each.path for each in self.light.sources}
        check_outputs({names[each]: each for each in files}, inputs)
        write_all(files)


@dataclass(frozen=True)
class Point(Result):
    """One model of a sweep.

    Attributes
    ----------
    target : float
        Fraction of the multiply-accumulates that it was allowed.
    accuracy_before, accuracy_after : float, optional
        Fraction of the held-out samples that the original and this model put into their class,
        where labels were given.
    """

    target: float
    accuracy_before: float | None
    accuracy_after: float | None
