"""torch.compile: inductor with frozen weights, static shapes, pictures in channels_last. It needs a C++ compiler.

Option dtype: "f32" (default), or "bf16" for autocast.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hasten.base.errors import MissingDependency
from hasten.bench.peer import Runner
from hasten.bench.peers.support import choose
from hasten.bench.peers.torch import OPTIONS, TorchRunner, use_threads


class TorchCompile:
    name = "torch_compile"
    package = "torch"

    def load(self, model: Path, threads: int, options: Mapping[str, str], cache: Path | None) -> Runner:
        """The model as read; it is translated and compiled at the first call, when the shapes are known."""
        dtype = choose(self.name, options, OPTIONS)["dtype"]
        compiler = _compiler()
        folder = None if cache is not None else tempfile.TemporaryDirectory(prefix="hasten-bench-inductor-")
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache) if folder is None else folder.name

        import torch
        import torch._inductor.config as inductor

        inductor.compile_threads = threads
        inductor.freezing = True  # for the whole process: among the options of torch.compile it does nothing
        use_threads(threads)

        def finish(module: Any) -> Any:
            return torch.compile(module, dynamic=False)

        about = {"version": torch.__version__, "compiler": f"inductor, freezing, {compiler}"}
        runner = TorchRunner(model, dtype, finish, about)
        runner.holds = folder
        return runner


def _compiler() -> str:
    """The C++ compiler that inductor will call. Raises MissingDependency."""
    name = os.environ.get("CXX") or "g++"
    if shutil.which(name) is None:
        raise MissingDependency(f"torch.compile needs a C++ compiler, and there is no {name}: install one (apt install g++), or name yours in CXX.")
    return name


PEER = TorchCompile()
