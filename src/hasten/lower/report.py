"""What became of each node: rows of `CompiledModel.report()`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class NodeReport:
    """One computed region. kind: "kernel", "host", "view", "folded" or "control"; bytes and operations are expressions of the sizes."""

    name: str
    op: str
    region: str
    kind: str
    fused_into: str | None
    format: str
    algorithm: str
    precision: str
    bytes: str
    operations: str


@dataclass
class Report:
    """The whole model. peak_memory: bytes as an expression of the sizes, constants not included."""

    isa: str
    threads: int
    precision: str
    from_cache: bool = False
    compile_seconds: float = 0.0
    peak_memory: str = "0"
    kernels: int = 0
    host_ops: list[str] = field(default_factory=list)
    constants_bytes: int = 0
    image_bytes: int = 0
    nodes: list[NodeReport] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Report:
        """The reverse of to_dict."""
        return Report(**{**data, "nodes": [NodeReport(**n) for n in data["nodes"]]})
