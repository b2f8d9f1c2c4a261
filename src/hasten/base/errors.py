"""The error tree: every failure a user can meet is a HastenError that says what, where, and what to do.

    HastenError
    ├── ModelError            the model itself is wrong (also a ValueError)
    │   ├── UnsupportedOperator
    │   ├── TypeInferenceError
    │   └── SourceError     a line of a `hasten.function`; the message shows the line
    ├── InputError            what was fed is wrong (also a ValueError)
    │   ├── TypeMismatch      wrong dtype or kind (also a TypeError)
    │   └── ShapeMismatch
    ├── CorruptFile           a .hasten or cache file is truncated, altered or of another version
    ├── ResourceLimit         something would need more memory, depth or time than allowed
    ├── ExecutionError        a run failed: an index out of range, a shape that data made impossible
    ├── CompileError          a kernel could not be made: always a fault of Hasten, never of the user
    └── MissingDependency     an optional package is needed; the message has the install command
"""


class HastenError(Exception):
    """Root of all errors that Hasten raises on purpose."""


class ModelError(HastenError, ValueError):
    """The model is malformed or inconsistent; the message names the node, its operator and the value."""


class UnsupportedOperator(ModelError):
    """An operator is unknown, or has no native kernel while host ops are forbidden."""


class TypeInferenceError(ModelError):
    """Types or shapes inside the model contradict each other."""


class SourceError(ModelError):
    """A line of a `hasten.function` is outside of the language, or its types do not fit; the message has file, line and the line itself."""


class InputError(HastenError, ValueError):
    """A fed input is missing, unknown or unusable."""


class TypeMismatch(InputError, TypeError):
    """An input has the wrong dtype or is not a tensor at all."""


class ShapeMismatch(InputError):
    """An input has the wrong rank or a size that the model excludes."""


class CorruptFile(HastenError):
    """A file is truncated, altered, or was written by an incompatible version."""


class ResourceLimit(HastenError):
    """A limit on memory, size or depth would be passed."""


class ExecutionError(HastenError):
    """A run failed because of the values in it (index out of range, impossible data-dependent shape)."""


class CompileError(HastenError):
    """Generated code was refused by the compiler or the linker; please report it with the dump."""


class MissingDependency(HastenError, ImportError):
    """An optional package is not installed; the message has the command that installs it."""
