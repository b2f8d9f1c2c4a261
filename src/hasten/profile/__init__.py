"""Where a model's time goes: every kernel's time, operations and bytes, beside the peaks of the machine.

    from hasten.profile import Roofline, machine_peaks, record
    profile = record(model, {"x": x})                       # KernelTimes, the slowest first
    Roofline.of(profile, machine_peaks(profile.isa, profile.threads))

`hasten profile` is the same as a command, with a page and a trace.
"""

from hasten.profile.peaks import Peaks, machine_peaks
from hasten.profile.record import KernelTime, Profile, record
from hasten.profile.roofline import Placed, Roofline

__all__ = ["KernelTime", "Peaks", "Placed", "Profile", "Roofline", "machine_peaks", "record"]
