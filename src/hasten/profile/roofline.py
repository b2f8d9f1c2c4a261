"""The roofline view: how near each kernel comes to what the machine allows.

A kernel with F operations and B bytes takes at least F / (arithmetic peak), and at least the time in which B bytes move at the level of memory that
holds them. The larger of the two is its roof; which one it is says what to work on. A share above 1 means that the algorithm does fewer operations
than the plain one that is counted (Winograd), or that the peaks are out of date.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hasten.profile.peaks import Level, Peaks
from hasten.profile.record import KernelTime, Profile

COMPUTE = "compute"


@dataclass(frozen=True)
class Placed:
    """A kernel under its roof. level: the memory that holds one call's bytes; bound: "compute", or the level's name; roof: seconds that it would take
    at the roof; share: of the time of all kernels."""

    kernel: KernelTime
    level: Level
    bound: str
    roof: float
    share: float

    @property
    def intensity(self) -> float:
        """Operations a byte."""
        return self.kernel.operations / max(1, self.kernel.bytes)

    @property
    def rate(self) -> float:
        """Operations a second."""
        return self.kernel.operations / max(1e-12, self.kernel.seconds)

    @property
    def bandwidth(self) -> float:
        """Bytes a second."""
        return self.kernel.bytes / max(1e-12, self.kernel.seconds)

    @property
    def attained(self) -> float:
        """Share of the roof."""
        return self.roof / max(1e-12, self.kernel.seconds)

    @property
    def saving(self) -> float:
        """Seconds of a run that would be saved at the roof."""
        return max(0.0, self.kernel.seconds - self.roof)

    def to_dict(self) -> dict[str, Any]:
        return self.kernel.to_dict() | {
            "share": self.share, "intensity": self.intensity, "operations_per_second": self.rate, "bytes_per_second": self.bandwidth,
            "level": self.level.name, "bound": self.bound, "roof_seconds": self.roof, "attained": self.attained, "saving_seconds": self.saving,
        }  # fmt: skip


@dataclass(frozen=True)
class Roofline:
    """A profile under the peaks of the machine; kernels in the profile's order."""

    profile: Profile
    peaks: Peaks
    kernels: tuple[Placed, ...]

    @staticmethod
    def of(profile: Profile, peaks: Peaks) -> Roofline:
        return Roofline(profile, peaks, tuple(place(k, peaks, profile.share(k)) for k in profile.kernels))

    @property
    def attained(self) -> float:
        """The share of the roof that all kernels together reach: time at the roofs over time spent."""
        return sum(k.roof for k in self.kernels) / max(1e-12, sum(k.kernel.seconds for k in self.kernels))

    def reached(self, kind: str) -> float:
        """The same for the kernels of one kind."""
        mine = [k for k in self.kernels if k.kernel.kind == kind]
        return sum(k.roof for k in mine) / max(1e-12, sum(k.kernel.seconds for k in mine))

    def worth(self) -> list[Placed]:
        """Where to look first: by the time that would be saved."""
        return sorted(self.kernels, key=lambda k: -k.saving)

    def to_dict(self) -> dict[str, Any]:
        return self.profile.to_dict() | {"peaks": self.peaks.to_dict(), "attained": self.attained, "kernels": [k.to_dict() for k in self.kernels]}


def place(kernel: KernelTime, peaks: Peaks, share: float) -> Placed:
    """Find the roof."""
    level = peaks.level(kernel.bytes // max(1, kernel.calls))
    moving, computing = level.seconds(kernel.read, kernel.written), kernel.operations / peaks.arithmetic(kernel.precision)
    return Placed(kernel, level, COMPUTE if computing > moving else level.name, max(computing, moving), share)
