"""Running what may crash, hang or eat memory: each attempt in a forked process with limits on time and memory.

    with Sandbox() as box:
        verdict = box.attempt(model_bytes, feeds)
        assert verdict.kind == "answer" or verdict.error == "ResourceLimit"

A helper process imports everything once and forks for every attempt, so that one costs milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import resource
import signal
import struct
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GIB = 1 << 30
ADDRESS_SPACE = 12 * GIB  # keeps a mistake from taking the machine down; peaks are judged by what was touched


@dataclass
class Verdict:
    """What became of an attempt.

    kind: "answer" (outputs), "refused" (a HastenError: error is its class), "exception" (any other one), "crash" (a
    signal), "hang". stage: "compile" or "run", where it ended. peak: bytes of the largest resident set.
    """

    kind: str
    stage: str = "compile"
    error: str = ""
    message: str = ""
    seconds: float = 0.0
    peak: int = 0
    outputs: dict[str, Any] = field(default_factory=dict)

    @property
    def fine(self) -> bool:
        """An answer, or an error that says something, within 2 GiB."""
        return (self.kind == "answer" or (self.kind == "refused" and len(self.message) >= 15)) and self.peak <= 2 * GIB

    def __str__(self) -> str:
        return (
            f"{self.kind} at {self.stage}: {self.error} {self.message[:400]} "
            f"({self.seconds:.1f} s, {self.peak / GIB:.2f} GiB)"
        )


class Sandbox:
    """The helper process. One attempt at a time."""

    def __init__(self) -> None:
        self._helper = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve())], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self._helper.communicate()

    def attempt(self, model: Any, feeds: Any = None, *, seconds: float = 60.0, keep: bool = True, **options: Any) -> Verdict:
        """Compile `model` (bytes, a path) and run it on `feeds`: a dict, a function's source `feeds(model)` as text, or
        None for compiling only. keep: whether outputs are wanted. options: of hasten.compile."""
        if hasattr(model, "SerializeToString"):
            model = model.SerializeToString()
        job = pickle.dumps({"model": model, "feeds": feeds, "options": options, "seconds": seconds, "keep": keep})
        pipe, back = self._helper.stdin, self._helper.stdout
        assert pipe is not None and back is not None
        pipe.write(struct.pack("<q", len(job)) + job)
        pipe.flush()
        (size,) = struct.unpack("<q", back.read(8))
        verdict: Verdict = _verdict(pickle.loads(back.read(size)))
        return verdict


def _verdict(fields: dict[str, Any]) -> Verdict:
    return Verdict(**fields)


# --- in the helper ----------------------------------------------------------------------------------------------------
def _serve() -> None:
    import onnx  # noqa: F401
    import onnx_ir  # noqa: F401

    import hasten  # noqa: F401
    from hasten.codegen import llvm  # noqa: F401
    from hasten.graph import prepare  # noqa: F401
    from hasten.lower import compile as stages  # noqa: F401

    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what models print is no answer
    while len(head := source.read(8)) == 8:
        job = pickle.loads(source.read(struct.unpack("<q", head)[0]))
        data = pickle.dumps(_forked(job))
        sink.write(struct.pack("<q", len(data)) + data)
        sink.flush()


def _forked(job: dict[str, Any]) -> dict[str, Any]:
    read, write = os.pipe()
    began = time.perf_counter()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            _child(job, write)
        finally:
            os._exit(0)
    os.close(write)
    data, hung = _drain(read, child, job["seconds"])
    _, status, usage = os.wait4(child, 0)
    fields: dict[str, Any]
    try:
        fields = pickle.loads(data[data.index(b"|") + 1 :])
    except (ValueError, EOFError, pickle.UnpicklingError):
        name = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit {status}"
        fields = {"kind": "hang" if hung else "crash", "stage": "run" if b"r" in data[:2] else "compile", "error": name}
    return {**fields, "seconds": time.perf_counter() - began, "peak": usage.ru_maxrss * 1024}


def _drain(read: int, child: int, seconds: float) -> tuple[bytes, bool]:
    """All that the child writes; it is killed after its time."""
    import select

    data, deadline, hung = b"", time.perf_counter() + seconds, False
    while True:
        left = deadline - time.perf_counter()
        if left <= 0 and not hung:
            hung = True
            os.kill(child, signal.SIGKILL)
        ready, _, _ = select.select([read], [], [], max(0.0, left) if not hung else 5)
        if ready:
            chunk = os.read(read, 1 << 20)
            if not chunk:
                break
            data += chunk
        elif hung:
            break
    os.close(read)
    return data, hung


def _child(job: dict[str, Any], write: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    import faulthandler

    import hasten

    faulthandler.disable()
    fields: dict[str, Any] = {"kind": "answer", "stage": "compile"}
    os.write(write, b"c")
    try:
        model = hasten.compile(job["model"], **job["options"])
        feeds = job["feeds"]
        if isinstance(feeds, str):
            space: dict[str, Any] = {}
            exec(feeds, space)
            feeds = space["feeds"](model)
        if feeds is not None:
            fields["stage"] = "run"
            os.write(write, b"r")
            outputs = model.run(feeds)
            fields["outputs"] = outputs if job["keep"] else {}
    except hasten.HastenError as error:
        fields |= {"kind": "refused", "error": type(error).__name__, "message": str(error)}
    except BaseException as error:  # noqa: BLE001
        where = traceback.format_exc()[-1500:]
        fields |= {"kind": "exception", "error": type(error).__name__, "message": f"{str(error)[:200]} | {where}"}
    view = memoryview(b"|" + pickle.dumps(fields))
    while view:
        view = view[os.write(write, view) :]


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        _serve()
