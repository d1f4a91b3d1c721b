"""Reading text, and writing files: whole or not at all, and never over an input."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from onnx_reap.errors import ReapError

Content = bytes | Iterable[bytes | memoryview]
"""Of a file, whole or piece by piece."""


def read_text(what: str, path: str | Path) -> str:
    """Read a text file.

    Raises
    ------
    ReapError
        If it can't be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        hint = "check the path, and that it is a text file"
        raise ReapError(f"{what} {path}: can't be read", got=str(error), hint=hint) from None


def check_outputs(
    outputs: Mapping[str, str | Path], inputs: Mapping[str, str | Path] | None = None
) -> None:
    """Refuse output paths that could not be written, before any work is done.

    Both mappings are by what the user calls the paths, such as `--report`.
    """
    taken = {name: Path(path) for name, path in (inputs or {}).items()}
    for name, path in outputs.items():
        with _refusals(name, path):
            _check_output(name, Path(path), taken)
        taken[name] = Path(path)


def _check_output(name: str, path: Path, taken: Mapping[str, Path]) -> None:
    """Refuse a folder, a device, and a file that is taken, also through links."""
    if path.is_dir():
        raise ReapError(f"{name} is a folder", got=str(path), expected="the path of a file")
    if path.exists() and not path.is_file():
        raise ReapError(f"{name} is not a regular file", got=str(path), hint="another path")
    for other, used in taken.items():
        if _same_file(path, used):
            raise ReapError(
                f"{name} is the same file as {other}", got=str(path), hint="another path"
            )
    folder = _target(path).parent
    if not folder.is_dir():
        raise ReapError(
            f"the folder of {name} does not exist", got=str(path), hint=f"mkdir -p {folder}"
        )
    with tempfile.TemporaryFile(dir=folder):
        pass  # the folder takes files: what access bits say is not the whole truth


def check_folder(name: str, folder: Path, files: Iterable[str], inputs: Mapping[str, Path]) -> None:
    """Refuse a folder that could not be made or take some files, before any work is done.

    Raises
    ------
    ReapError
        If the folder is a file or an input, can't be made, or `check_outputs` refuses a file.
    """
    if folder.is_dir():
        for other, path in inputs.items():
            if _same_file(folder, path):
                raise ReapError(
                    f"{name} is the same folder as {other}", got=str(folder), hint="another path"
                )
        check_outputs({f"{name} {file}": folder / file for file in files}, inputs)
    elif folder.exists():
        raise ReapError(f"{name} is not a folder", got=str(folder), hint="another path")
    else:
        check_outputs({name: folder}, inputs)


def write_folder(folder: Path, files: Mapping[str, Content]) -> None:
    """Write files by name as `write_all` does, in a folder that is made if it is missing.

    If the system refuses, a folder that was made is gone then.
    """
    made = not folder.exists()
    with _refusals("the folder", folder):
        _target(folder).mkdir(exist_ok=True)
    try:
        write_all({folder / name: data for name, data in files.items()})
    except BaseException:
        if made:
            with suppress(OSError):  # some files may be whole and in place
                _target(folder).rmdir()
        raise


def write_all(files: Mapping[Path, Content]) -> None:
    """Write files such that each appears whole, and none does if one can't be written.

    All data is on the disk, under temporary names beside the targets, before the first file
    appears; files appear in the order of `files`. Of several, those that they replace step aside
    first and come back if one can't take its place: old files never stand beside new ones.
    """
    with ExitStack() as cleanup:
        staged = []
        for path, data in files.items():
            target = _target(path)
            temporary = _beside(target)
            cleanup.callback(temporary.unlink, missing_ok=True)
            with _refusals("the file", path):
                _write(temporary, data)
                if target.exists():
                    shutil.copymode(target, temporary)
            staged.append((temporary, target))
        undo = cleanup.enter_context(ExitStack())
        olds = [_step_aside(t, undo) for _, t in staged if len(staged) > 1 and t.exists()]
        for temporary, target in staged:
            with _refusals("the file", target):
                temporary.replace(target)
                if len(staged) > 1:
                    undo.callback(target.unlink, missing_ok=True)
        undo.pop_all()
        for old in olds:
            old.unlink(missing_ok=True)


def _step_aside(target: Path, undo: ExitStack) -> Path:
    """Rename a file that is to be replaced, until it is known whether it comes back."""
    old = _beside(target)
    with _refusals("the file", target):
        target.replace(old)
    undo.callback(old.replace, target)
    return old


def _beside(target: Path) -> Path:
    return target.with_name(f".onnx-reap-{secrets.token_hex(8)}.tmp")


def _write(path: Path, data: Content) -> None:
    with path.open("xb") as file:
        file.writelines([data] if isinstance(data, bytes) else data)
        file.flush()
        os.fsync(file.fileno())


def _target(path: str | Path) -> Path:
    """Follow symbolic links, so that the file is replaced and not the link."""
    return Path(os.path.realpath(path))


def _same_file(a: Path, b: Path) -> bool:
    both = a.exists() and b.exists()
    return a.samefile(b) if both else _target(a) == _target(b)


@contextmanager
def _refusals(name: str, path: str | Path) -> Iterator[None]:
    """Turn what the system refuses into one sentence."""
    try:
        yield
    except OSError as error:
        raise ReapError(
            f"{name} can't be written",
            got=f"{path}: {error.strerror or error}",
            hint="a folder that you may write to, with free space",
        ) from error
