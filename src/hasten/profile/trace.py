"""A typical run as a Chrome trace: what chrome://tracing and Perfetto open."""

from __future__ import annotations

import json
from typing import Any

from hasten.profile.record import Profile

PROCESS = 1
KERNELS = 1  # the one track


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
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"})
