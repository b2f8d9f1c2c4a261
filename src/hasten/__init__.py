"""Hasten makes trained neural networks run fast on the machines people have.

    import hasten
    model = hasten.compile("model.onnx")           # or a torch.nn.Module with example_inputs
    y = model(x)                                   # NumPy (or DLPack) in, NumPy out
    model.save("model.hasten"); hasten.load("model.hasten")
    hasten.build_library("model.onnx", "folder")   # a shared library for programs without Python

See `compile`, `load`, `CompiledModel`, `build_library`, and the error tree in `hasten.base.errors`.
"""

from hasten.api import CompiledModel, TensorInfo, compile, load
from hasten.base.errors import (
    CompileError,
    CorruptFile,
    ExecutionError,
    HastenError,
    InputError,
    MissingDependency,
    ModelError,
    ResourceLimit,
    ShapeMismatch,
    SourceError,
    TypeInferenceError,
    TypeMismatch,
    UnsupportedOperator,
)
from hasten.base.ranges import Dim
from hasten.base.types import Tensor, adt
from hasten.base.version import VERSION
from hasten.deploy import build_library
from hasten.functions import op
from hasten.functions.function import function
from hasten.stream import Stream

__version__ = VERSION

__all__ = [
    "CompileError",
    "CompiledModel",
    "CorruptFile",
    "Dim",
    "ExecutionError",
    "HastenError",
    "InputError",
    "MissingDependency",
    "ModelError",
    "ResourceLimit",
    "ShapeMismatch",
    "SourceError",
    "Stream",
    "Tensor",
    "TensorInfo",
    "TypeInferenceError",
    "TypeMismatch",
    "UnsupportedOperator",
    "adt",
    "build_library",
    "compile",
    "function",
    "load",
    "op",
]
