"""Tensors of a model file become NumPy arrays: every size is checked before a byte is allocated or read.

A `TensorProto` is untrusted: its dims may be negative, overflow, or promise more than its payload holds, and its
external data may point anywhere. `TensorReader` refuses all of that with a ModelError (or ResourceLimit) that names
the tensor.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from hasten.base.errors import ModelError, ResourceLimit

MAX_DIM = 1 << 48
MAX_ELEMENTS = 1 << 58
MAX_SPARSE_BYTES = 256 << 20

_T = onnx.TensorProto
_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
_FLOATS = {_T.FLOAT}
_DOUBLES = {_T.DOUBLE}
_INT64 = {_T.INT64}
_UINT64 = {_T.UINT64, _T.UINT32}


def element_count(dims: Sequence[int], where: str) -> int:
    """Number of elements of a shape; refuses negative dims and products no machine can hold."""
    count, nonzero = 1, 1
    for dim in dims:
        if dim < 0:
            raise ModelError(f"{where}: the shape {list(dims)} has a negative dimension; the file is damaged")
        if dim > MAX_DIM:
            raise ResourceLimit(f"{where}: a dimension of {dim} elements passes the limit of {MAX_DIM}")
        count *= dim
        nonzero *= dim or 1
        if nonzero > MAX_ELEMENTS:
            raise ResourceLimit(f"{where}: the shape {list(dims)[:8]} has more elements than any machine can hold")
    return count


def data_type(code: int, where: str) -> ir.DataType:
    """The dtype for a TensorProto code; a ModelError when the code means nothing."""
    try:
        dtype = ir.DataType(code)
    except ValueError:
        raise ModelError(f"{where}: unknown element type {code}; the file is damaged or newer than this onnx") from None
    if dtype == ir.DataType.UNDEFINED:
        raise ModelError(f"{where}: the element type is not set")
    return dtype


def byte_count(count: int, dtype: ir.DataType) -> int:
    """Bytes of `count` packed elements (types under 8 bits share bytes)."""
    return (count * dtype.bitwidth + 7) // 8


def _typed_field(dtype: ir.DataType) -> tuple[str, int]:
    """(field that holds values of this dtype when raw_data is absent, field entries per element)."""
    code = dtype.value
    if code in (_T.COMPLEX64, _T.COMPLEX128):
        return ("float_data" if code == _T.COMPLEX64 else "double_data"), 2
    for codes, field in (
        (_FLOATS, "float_data"),
        (_DOUBLES, "double_data"),
        (_INT64, "int64_data"),
        (_UINT64, "uint64_data"),
        ({_T.STRING}, "string_data"),
    ):
        if code in codes:
            return field, 1
    return "int32_data", 1


class TensorReader:
    """Decodes the tensors of one model file.

    folder: directory that external data may come from; None when the model did not come from a file.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self._folder = None if folder is None else Path(os.path.realpath(folder))
        self._maps: dict[str, np.ndarray] = {}

    def check(self, tensor: onnx.TensorProto, where: str) -> ir.DataType:
        """Check dtype, dims and payload length without decoding anything; returns the dtype."""
        dtype = data_type(tensor.data_type, where)
        count = element_count(tensor.dims, where)
        if tensor.HasField("segment"):
            raise ModelError(f"{where}: segmented tensors are not part of ONNX models in use; save the model again")
        if tensor.data_location == _T.EXTERNAL:
            if dtype == ir.DataType.STRING:
                raise ModelError(f"{where}: string tensors cannot be stored as external data")
            return dtype
        if tensor.HasField("raw_data"):
            if dtype == ir.DataType.STRING:
                raise ModelError(f"{where}: string tensors cannot be stored as raw data")
            wanted, got, unit = byte_count(count, dtype), len(tensor.raw_data), "bytes"
        else:
            field, per_element = _typed_field(dtype)
            packed = dtype != ir.DataType.STRING and dtype.bitwidth < 8
            wanted = byte_count(count, dtype) if packed else count * per_element
            got, unit = len(getattr(tensor, field)), f"entries in {field}"
            if any(len(getattr(tensor, other)) for other in _FIELDS if other != field):
                raise ModelError(
                    f"{where}: a tensor of {dtype.name.lower()} keeps its values in {field}, "
                    "the file has values in another field"
                )
        if wanted != got:
            raise ModelError(
                f"{where}: shape {list(tensor.dims)} of {dtype.name.lower()} needs {wanted} {unit}, "
                f"the file holds {got}; it is truncated or damaged"
            )
        return dtype

    def read(self, tensor: onnx.TensorProto, where: str) -> ir.TensorProtocol:
        """The tensor in memory (external data: mapped read-only), with `.numpy()` free of cost."""
        dtype = self.check(tensor, where)
        name = tensor.name or None
        if dtype == ir.DataType.STRING:
            return ir.StringTensor(list(tensor.string_data), shape=ir.Shape(tensor.dims), name=name)
        if tensor.data_location == _T.EXTERNAL:
            array = self._external(tensor, dtype, where)
        else:
            array = ir.serde.TensorProtoTensor(tensor).numpy()
        return ir.Tensor(array, dtype=dtype, shape=ir.Shape(tensor.dims), name=name)

    def _external(self, tensor: onnx.TensorProto, dtype: ir.DataType, where: str) -> np.ndarray:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        path = self._inside_folder(entries.get("location", ""), where)
        try:
            offset, length = int(entries.get("offset") or 0), entries.get("length")
            size = None if length in (None, "") else int(length or 0)
        except ValueError:
            raise ModelError(f"{where}: offset or length of its external data is not a number") from None
        wanted = byte_count(element_count(tensor.dims, where), dtype)
        if size is not None and size != wanted:
            raise ModelError(f"{where}: its shape needs {wanted} bytes, its external data entry says {size}")
        data = self._map(path, where)
        if offset < 0 or offset + wanted > data.size:
            raise ModelError(
                f"{where}: needs bytes {offset}..{offset + wanted} of {path}, "
                f"which has {data.size}; the data file is truncated or of another model"
            )
        # A tensor proto that carries the bytes as raw data decodes packed types for us; plain types are views.
        part = data[offset : offset + wanted]
        if dtype.bitwidth >= 8 and dtype != ir.DataType.BOOL:
            return part.view(dtype.numpy()).reshape(tuple(tensor.dims))
        packed = onnx.TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=part.tobytes())
        return ir.serde.TensorProtoTensor(packed).numpy()

    def _inside_folder(self, location: str, where: str) -> str:
        if self._folder is None:
            raise ModelError(
                f"{where}: keeps its values in the file {location!r}, but the model came without a folder; "
                "compile it from its path, or load its external data first"
            )
        if not location or "\0" in location or os.path.isabs(location) or ":" in location or "\\" in location:
            raise ModelError(f"{where}: external data location {location!r} is not a relative path")
        if ".." in Path(location).parts:
            raise ModelError(f"{where}: external data location {location!r} leads out of the model's folder")
        path = Path(os.path.realpath(self._folder / location))
        if not path.is_relative_to(self._folder):
            raise ModelError(
                f"{where}: external data location {location!r} leads out of the model's folder through a link"
            )
        if not path.exists():
            raise ModelError(f"{where}: its external data file {path} is missing")
        if not path.is_file():
            raise ModelError(f"{where}: its external data {path} is not a regular file")
        return str(path)

    def _map(self, path: str, where: str) -> np.ndarray:
        if path not in self._maps:
            try:
                empty = os.path.getsize(path) == 0
                self._maps[path] = np.empty(0, np.uint8) if empty else np.memmap(path, np.uint8, mode="r")
            except OSError as error:
                raise ModelError(f"{where}: cannot read its external data {path}: {error}") from None
        return self._maps[path]

    def densify(self, sparse: onnx.SparseTensorProto, where: str) -> onnx.TensorProto:
        """A sparse tensor as a dense TensorProto of the same name; at most MAX_SPARSE_BYTES."""
        dtype = self.check(sparse.values, where)
        if self.check(sparse.indices, f"{where} (indices)") != ir.DataType.INT64:
            raise ModelError(f"{where}: indices of a sparse tensor must be int64")
        count = element_count(sparse.dims, where)
        if dtype == ir.DataType.STRING or dtype.bitwidth < 8:
            raise ModelError(f"{where}: sparse tensors of {dtype.name.lower()} are not supported")
        if byte_count(count, dtype) > MAX_SPARSE_BYTES:
            raise ResourceLimit(
                f"{where}: a dense copy needs {byte_count(count, dtype)} bytes, the limit is {MAX_SPARSE_BYTES}"
            )
        values = self.read(sparse.values, where).numpy().reshape(-1)
        indices = self.read(sparse.indices, where).numpy()
        dims = tuple(sparse.dims)
        if indices.ndim == 2 and indices.shape == (values.size, len(dims)):
            if np.any(indices < 0) or np.any(indices >= np.asarray(dims, np.int64)):
                raise ModelError(f"{where}: an index lies outside of the shape {list(dims)}")
            strides = [math.prod(dims[axis + 1 :]) for axis in range(len(dims))]
            indices = indices @ np.asarray(strides, np.int64)
        if indices.shape != values.shape:
            raise ModelError(f"{where}: {values.size} values but indices of shape {list(indices.shape)}")
        if values.size and (indices.min() < 0 or indices.max() >= count):
            raise ModelError(f"{where}: an index lies outside of the shape {list(dims)}")
        dense = np.zeros(count, values.dtype)
        dense[indices] = values
        return onnx.TensorProto(name=sparse.values.name, data_type=dtype.value, dims=dims, raw_data=dense.tobytes())
