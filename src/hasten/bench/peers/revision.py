"""Another revision of Hasten, as a folder to import it from: for `hasten@REVISION` among the engines."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

from hasten.base.errors import InputError
from hasten.bench.peers.support import kept

CHECKOUT = Path(__file__).resolve().parents[4]


def source_of(revision: str, folder: Path, checkout: Path = CHECKOUT) -> Path:
    """The folder src of a git revision of the checkout, unpacked under `folder` (once for each commit); the checkout is only read.

    For the option `source` of the peer hasten. Raises InputError outside a git checkout, or where the revision is unknown to it.
    """
    if revision.startswith("-"):
        raise InputError(f"hasten@{revision}: that is not a revision.")
    commit = _git(checkout, revision, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}").decode().strip()
    return kept(folder / f"hasten-{commit[:16]}", lambda made: _unpack(checkout, revision, commit, made)) / "src"


def _unpack(checkout: Path, revision: str, commit: str, made: Path) -> None:
    packed = _git(checkout, revision, "archive", "--format=tar", commit, "src")
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(made, filter="data")


def _git(checkout: Path, revision: str, *arguments: str) -> bytes:
    try:
        return subprocess.run(["git", "-C", str(checkout), *arguments], check=True, capture_output=True).stdout
    except FileNotFoundError:
        raise InputError(f"hasten@{revision}: another revision needs git, which is not installed.") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip() or "git knows no such commit"
        raise InputError(f"hasten@{revision}: no such revision in {checkout}: {said}") from None
