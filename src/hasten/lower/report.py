"""What became of each node: rows of `CompiledModel.report()`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hasten.lower.schedule import Schedule
    from hasten.lower.trace import Tensor


@dataclass
class NodeReport:
    """One computed region. kind: "kernel", "fused" (into the region `fused_into`), "view", "folded", "host" or "control". Rows of kind "kernel"
    stand in the order of the Program's calls, one for each; `fused_node` is the name of the row that has this node in its kernel.

    bytes (operands read once, results written), written (the results' part) and operations are expressions of the sizes."""

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
    written: str = "0"
    fused_node: str | None = None


def fused_rows(schedule: Schedule, regions: dict[int, str]) -> list[NodeReport]:
    """Rows for what has no kernel of its own: folded, a view of other memory, or computed inside another node's kernel. A node that has kernels (for
    copies of its operands) and whose main work is done in another one's has both kinds of rows."""
    told = {str(t.node) for t in schedule.order if id(t) in regions}
    rows: dict[str, NodeReport] = {}
    for t in schedule.order:
        name, kind = str(t.node), type(t.origin).__name__
        if t.node is None or id(t) in regions or kind in ("HostCall", "Branch", "Loop", "Source") or (name in told and kind not in ("Kernel", "Nest")):
            continue
        into = _computed_with(schedule, t, regions, 0)
        if name in told and (into is None or node_name(into) == name):
            continue
        what = "folded" if kind == "Const" else "view" if kind == "View" else "fused"
        region, node = (None, None) if into is None else (regions[id(into)], node_name(into))
        rows[name] = NodeReport(name, t.node.op_type, "", what, region, "", "", "", "0", "0", fused_node=node)
    return list(rows.values())


def node_name(t: Tensor) -> str:
    """What a kernel's row is called: the node that its result belongs to."""
    return str(t.node) if t.node is not None else t.name


def _computed_with(schedule: Schedule, t: Tensor, regions: dict[int, str], depth: int) -> Tensor | None:
    """The tensor whose kernel computes t or reads through it."""
    if id(t) in regions or depth > 40:
        return t if id(t) in regions else None
    found = (_computed_with(schedule, u, regions, depth + 1) for u in schedule.users.get(id(t), []))
    return next((u for u in found if u is not None), None)


def fused_names(nodes: list[NodeReport]) -> dict[tuple[str, str], list[str]]:
    """For each kernel's row, by region and name, the nodes computed in it besides its own."""
    inside: dict[tuple[str, str], dict[str, None]] = {}
    for n in nodes:
        if n.fused_into and n.fused_node:
            inside.setdefault((n.fused_into, n.fused_node), {})[n.name] = None
    return {key: list(names) for key, names in inside.items()}


def kernel_notes(nodes: list[NodeReport]) -> list[str]:
    """What each Call of the Program computes, in order: its node, and those that are computed with it."""
    inside = fused_names(nodes)
    rows = [n for n in nodes if n.kind == "kernel"]
    return [" with ".join(filter(None, [n.name or n.op, ", ".join(inside.get((n.region, n.name), []))])) for n in rows]


def regions_text(nodes: list[NodeReport]) -> str:
    """The regions in order, each with what is fused into it."""
    inside = fused_names(nodes)
    lines = []
    for n in nodes:
        if n.kind in ("kernel", "host", "control"):
            also = ", ".join(inside.get((n.region, n.name), []))
            lines.append(f"{n.region or n.kind}: {n.name}  [{n.format}; {n.algorithm}; {n.operations} operations]" + (f"  with {also}" if also else ""))
    return "\n".join(lines) + "\n"


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
