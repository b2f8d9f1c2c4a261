"""A typical run as a Chrome trace: what chrome://tracing and Perfetto open."""

from __future__ import annotations

import json
from typing import Any

from hasten.profile.record import Profile

PROCESS = 1
KERNELS, INSTRUCTIONS = 1, 2  # tracks: kernels one after the other, and another run instruction by instruction
MOST_SPANS = 50_000


def chrome_trace(profile: Profile, name: str) -> str:
    """JSON in the Trace Event Format (complete events, microseconds)."""
    events: list[dict[str, Any]] = [
        {"ph": "M", "pid": PROCESS, "name": "process_name", "args": {"name": f"{name} ({profile.isa}, {profile.threads} threads)"}},
        {"ph": "M", "pid": PROCESS, "tid": KERNELS, "name": "thread_name", "args": {"name": "kernels"}},
    ]
    for event in profile.run:
        k = profile.kernels[event.kernel]
        events.append({
            "ph": "X", "pid": PROCESS, "tid": KERNELS, "ts": event.start * 1e6, "dur": event.seconds * 1e6, "name": k.title, "cat": k.op,
            "args": {"kernel": k.kernel, "fused": list(k.fused), "algorithm": k.algorithm, "precision": k.precision, "threads": event.threads,
                     "operations": k.operations // k.calls, "bytes": k.bytes // k.calls},
        })  # fmt: skip
    events += _instructions(profile)
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"})


def _instructions(profile: Profile) -> list[dict[str, Any]]:
    """The spans of a run of the native driver, nested."""
    found = profile.instructions
    if found is None:
        return []
    events: list[dict[str, Any]] = [{"ph": "M", "pid": PROCESS, "tid": INSTRUCTIONS, "name": "thread_name", "args": {"name": "instructions"}}]
    for span in found.spans[:MOST_SPANS]:
        row = found.rows[span.number]
        events.append({
            "ph": "X", "pid": PROCESS, "tid": INSTRUCTIONS, "ts": span.start * 1e6, "dur": span.seconds * 1e6, "name": row.note or row.text, "cat": row.group,
            "args": {"instruction": row.text, "number": row.number, "function": row.function},
        })  # fmt: skip
    return events
