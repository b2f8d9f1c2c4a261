"""What the machine is, and whether times taken on it mean anything. Looks, warns and records; never changes a setting.

The load average lags by a minute, so the load is measured: how much of each CPU others use during a short pause, how much of the time a spinning loop
gets, how fast it spins compared with its best (a lower clock, or a neighbour on the same core). Linux; what cannot be read is left out.
"""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

PAUSE = 0.3  # seconds in which others are watched
SPIN_SECONDS = 0.05  # on each CPU of the engines
SPIN_STEPS = 2000

FREE = 0.5  # of a CPU may be missing to what engines need
SHARE = 0.9  # of the time a spinning loop should get
STEAL = 0.02  # of the time that the hypervisor may take
SLOWED = 0.85  # of its best speed is suspicious


@dataclass(frozen=True)
class Check:
    """One look. `refusals`: why times would mean nothing now; `cautions`: what may disturb them. Both in words."""

    refusals: tuple[str, ...]
    cautions: tuple[str, ...]
    free_cpus: float
    steal: float  # share of the time
    spin_share: float  # of the CPU that got least
    spin_speed: float  # relative to the best seen


class Watch:
    """Looks at the load that others make on the CPUs that this process may use, of which engines need `needed`. To be asked while engines sleep."""

    def __init__(self, needed: int):
        self._cpus, self._needed = frozenset(os.sched_getaffinity(0)), needed
        self._engines = sorted(choose_cpus(needed))
        self._fastest = 0.0

    def check(self) -> Check:
        """Takes about half a second."""
        before = _ticks(self._cpus)
        time.sleep(PAUSE)
        busy, steal = _load(before, _ticks(self._cpus))
        shares, speeds = zip(*(_spin(cpu) for cpu in self._engines), strict=True)
        self._fastest = max(self._fastest, *speeds)
        return self._judge(len(self._cpus) - busy, steal, min(shares), max(speeds) / self._fastest)

    def _judge(self, free: float, steal: float, share: float, speed: float) -> Check:
        refusals, cautions = [], []
        if free < self._needed - FREE:
            refusals.append(f"other work leaves {free:.1f} of {len(self._cpus)} CPUs free, and the engines need {self._needed}")
        elif free < len(self._cpus) - FREE or share < SHARE:
            cautions.append(f"other work runs: {free:.1f} of {len(self._cpus)} CPUs are free, a loop on its own gets {share:.0%} of the time")
        if steal > STEAL:
            cautions.append(f"the hypervisor takes {steal:.0%} of the time for other machines")
        if speed < SLOWED:
            cautions.append(f"the CPU runs at {speed:.0%} of the speed it had: throttled, or shared with a neighbour")
        return Check(tuple(refusals), tuple(cautions), free, steal, share, speed)


def describe() -> dict[str, object]:
    """The facts that a time depends on, as far as they can be read."""
    facts: dict[str, object] = {
        "cpu": cpu_model(),
        "cpus": os.cpu_count(),
        "allowed": sorted(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }
    readable = {name: text for name, path in FACTS.items() if (text := _read(path))}
    return {**facts, **readable, "cautions": standing_cautions()}


FACTS = {
    "clock": "/sys/devices/system/clocksource/clocksource0/current_clocksource",
    "governor": "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
    "turbo_off": "/sys/devices/system/cpu/intel_pstate/no_turbo",
    "boost": "/sys/devices/system/cpu/cpufreq/boost",
    "smt": "/sys/devices/system/cpu/smt/active",
    "quota": "/sys/fs/cgroup/cpu.max",
    "transparent_huge_pages": "/sys/kernel/mm/transparent_hugepage/enabled",
}


def cpu_model() -> str:
    """As Linux names it."""
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def standing_cautions() -> list[str]:
    """What holds as long as nobody changes the machine's settings."""
    found = []
    if (governor := _read(FACTS["governor"])) not in ("", "performance"):
        found.append(f"the CPU's governor is {governor!r}, not 'performance': its clock follows the load")
    if _read(FACTS["turbo_off"]) == "0" or _read(FACTS["boost"]) == "1":
        found.append("turbo is on: the clock depends on temperature and on what other cores do")
    if (clock := _read(FACTS["clock"])) in ("hpet", "acpi_pm", "jiffies"):
        found.append(f"the clock source {clock!r} is slow to read")
    quota, _, period = _read(FACTS["quota"]).partition(" ")
    if quota.isdigit() and int(quota) < int(period) * len(os.sched_getaffinity(0)):
        found.append(f"a control group allows {int(quota) / int(period):g} CPUs and stops the process beyond that")
    return found


def choose_cpus(threads: int) -> frozenset[int]:
    """CPUs for engines with so many threads: of different cores as long as there are cores."""
    allowed, cores = sorted(os.sched_getaffinity(0)), dict[str, int]()
    for cpu in allowed:
        cores.setdefault(_read(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") or str(cpu), cpu)
    first = list(cores.values())
    return frozenset([*first, *(cpu for cpu in allowed if cpu not in first)][:threads])


def _ticks(cpus: frozenset[int]) -> dict[int, list[int]]:
    """The columns of /proc/stat for each CPU: user nice system idle iowait irq softirq steal."""
    lines = (line.split() for line in Path("/proc/stat").read_text().splitlines() if line.startswith("cpu"))
    return {cpu: list(map(int, fields)) for name, *fields in lines if name != "cpu" and (cpu := int(name[3:])) in cpus}


def _load(before: dict[int, list[int]], after: dict[int, list[int]]) -> tuple[float, float]:
    """CPUs that were busy, and the share of the time that was stolen."""
    busy = stolen = total = 0.0
    for cpu in before:
        spent = [b - a for a, b in zip(before[cpu], after[cpu], strict=True)][:8]
        whole = max(1, sum(spent))
        busy += 1 - (spent[3] + spent[4]) / whole
        stolen += spent[7]
        total += whole
    return busy, stolen / max(1.0, total)


def _spin(cpu: int) -> tuple[float, float]:
    """The share of the time that a loop on this CPU got, and its speed in steps for each second of CPU time."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        wall, spent, steps = time.monotonic(), time.thread_time(), 0
        while time.monotonic() - wall < SPIN_SECONDS:
            for _ in range(SPIN_STEPS):
                pass
            steps += SPIN_STEPS
        spent = time.thread_time() - spent
        return spent / (time.monotonic() - wall), steps / max(spent, 1e-9)
    finally:
        os.sched_setaffinity(0, allowed)


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
