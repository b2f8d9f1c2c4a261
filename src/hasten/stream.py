"""State that is carried from call to call: `with model.stream() as s: y = s(frame)`.

Some outputs of a model are inputs of its next call: the state of a recurrent network, the past of a decoder. A `Stream` keeps them: what one
call gave is what the next one reads, in the same memory. Which output becomes which input is given, or told by names: a name is cut into words,
words for time and direction ("in", "new", "past", the N of `stateN`, the 0 of `h0`) are left out, and what then is the same belongs together,
if such words or what is left ("state", "cache") say that it is state.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from threading import current_thread, get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Any

from hasten.base.dims import evaluate, parse, symbols
from hasten.base.errors import InputError

if TYPE_CHECKING:
    from hasten.api import TensorInfo

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\d+")
_WAYS = frozenset("in out input output inputs outputs".split())
_TIMES = frozenset("n new next prev previous past present init initial cur current last old updated".split())
_STATES = frozenset("state states hidden cell h c cache memory context buffer history lstm gru rnn".split())  # without a word for time


def _stem(name: str, mark: str) -> tuple[tuple[str, ...], bool]:
    """The words of a name that say what it is, and whether it says that this is state. `mark`: what its last word may end with to say when, as
    that of h0 and hn."""
    words = [w.lower() for w in _WORD.findall(name.replace("key_values", ""))]
    kept = [w for w in words if w not in _WAYS | _TIMES]
    told = not _TIMES.isdisjoint(words) or not _STATES.isdisjoint(kept)
    if mark and kept and kept[-1].endswith(mark) and len(kept[-1]) <= len(mark) + 1:
        kept[-1], told = kept[-1].removesuffix(mark), True
    return tuple(w for w in kept if w), told


def _alike(a: TensorInfo, b: TensorInfo) -> bool:
    """Whether one can be the other: dtype, rank, and sizes where both are known."""
    if a.shape is None or b.shape is None:
        return a.dtype == b.dtype
    pairs = zip(a.shape, b.shape, strict=False)
    return a.dtype == b.dtype and len(a.shape) == len(b.shape) and all(x == y for x, y in pairs if isinstance(x, int) and isinstance(y, int))


def guess(inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]) -> dict[str, str]:
    """{output: input} of those whose names belong together, and whose types fit; names that could mean several are left out."""
    found: dict[str, str] = {}
    for marks in (("", ""), ("0", "n"), ("", "n")):
        sides: list[dict[tuple[str, ...], list[tuple[TensorInfo, bool]]]] = [{}, {}]
        for infos, mark, side in zip((inputs, outputs), marks, sides, strict=True):
            for info in infos:
                stem, told = _stem(info.name, mark)
                if info.name not in found and info.name not in found.values():
                    side.setdefault(stem, []).append((info, told))
        for stem in sides[0].keys() & sides[1].keys():
            (old, before), (new, after) = sides[0][stem][0], sides[1][stem][0]
            told = before and after if not stem else before or after
            if told and len(sides[0][stem]) == len(sides[1][stem]) == 1 and _alike(new, old):
                found[new.name] = old.name
    return {o.name: found[o.name] for o in outputs if o.name in found}


class Stream:
    """A session of a model that carries state; made by `CompiledModel.stream`.

    s(*frame) takes the inputs that are neither state nor fixed, in the model's order, and gives the outputs that are no state: one as itself,
    several as a tuple. A call that fails leaves the state as it was. A stream belongs to the thread that calls it first; streams of one
    model know nothing of each other. Raises InputError from another thread, or after the end of its `with` block.
    """

    def __init__(self, call: Callable[..., Any], inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo], state: Mapping[str, str] | None,
                 initial: Mapping[str, Any] | None, fixed: Mapping[str, Any] | None):  # fmt: skip
        self._model, self._inputs, self._outputs = call, {i.name: i for i in inputs}, {o.name: o for o in outputs}
        self._pairs = dict(guess(inputs, outputs) if state is None else state)
        self._fixed = dict(fixed or {})
        self._check()
        held = {*self._pairs.values(), *self._fixed}
        self._constant, self._alone = tuple(self._fixed.values()), len(self._outputs) == 1
        self._frames = [n for n in self._inputs if n not in held]
        self._count = len(self._frames)
        given = [*self._frames, *self._pairs.values(), *self._fixed]
        self._arrange = _picker([given.index(n) for n in self._inputs])
        names = list(self._outputs)
        self._next = _picker([names.index(n) for n in self._pairs])
        rest = [names.index(n) for n in self._outputs if n not in self._pairs]
        self._result = operator.itemgetter(*rest) if rest else lambda results: None
        self.reset(initial)

    def _check(self) -> None:
        """Raises InputError where the pairs or fixed inputs do not fit the model."""
        has = f"inputs {', '.join(self._inputs)}; outputs {', '.join(self._outputs)}"
        if not self._pairs:
            raise InputError(f"no output has a name like an input's, so say what is state: stream(state={{output: input}}); the model has {has}")
        strange = [n for n in self._pairs if n not in self._outputs] + [n for n in (*self._pairs.values(), *self._fixed) if n not in self._inputs]
        if strange:
            raise InputError(f"{', '.join(map(repr, strange))}: no such name; the model has {has}")
        held = [*self._pairs.values(), *self._fixed]
        if twice := [n for n in held if held.count(n) > 1]:
            raise InputError(f"input {twice[0]!r} is given twice")
        for new, old in self._pairs.items():
            if not _alike(self._outputs[new], self._inputs[old]):
                raise InputError(f"output {new!r} cannot become input {old!r}: {_type(self._outputs[new])} and {_type(self._inputs[old])}")

    def reset(self, initial: Mapping[str, Any] | None = None) -> None:
        """Begin again, with {input: array} (zeros where nothing is given). Any thread may do the next call."""
        self._initial = dict(initial or {})
        if strange := [n for n in self._initial if n not in self._pairs.values()]:
            raise InputError(f"initial: {', '.join(map(repr, strange))} is no state; state is {', '.join(self._pairs.values())}")
        self._owner, self._owner_name = 0, ""
        self._state: tuple[Any, ...] | None = None

    @property
    def state(self) -> dict[str, Any]:
        """The state by the names of its inputs, as arrays that cannot be written to; what was given, before the first call."""
        values = self._initial if self._state is None else dict(zip(self._pairs.values(), self._state, strict=True))
        return {name: _read_only(value) for name, value in values.items()}

    def __call__(self, *frame: Any) -> Any:
        if self._owner != get_ident():
            self._own()
        state = self._state
        if state is None or len(frame) != self._count:
            state = self._start(frame)
        results = self._model(*self._arrange((*frame, *state, *self._constant)))
        if self._alone:
            self._state = (results,)
            return None
        self._state = self._next(results)
        return self._result(results)

    def _own(self) -> None:
        """The calling thread's from now on, if it is nobody's."""
        if self._owner:
            who = "its `with` block has ended" if self._owner < 0 else f"it belongs to the thread {self._owner_name!r}, this is {current_thread().name!r}"
            raise InputError(f"this stream cannot be called: {who}. Each thread needs a stream of its own; reset() hands one over.")
        self._owner, self._owner_name = get_ident(), current_thread().name

    def _start(self, frame: tuple[Any, ...]) -> tuple[Any, ...]:
        """The state of the first call. Raises InputError where too few or too many inputs were given."""
        if len(frame) != len(self._frames):
            raise InputError(f"{len(frame)} inputs were given, a call of this stream takes {len(self._frames)}: {', '.join(self._frames) or 'none'}")
        if self._state is not None:
            return self._state
        import numpy as np

        sizes: dict[Any, int] = {}
        for name, value in zip(self._frames, frame, strict=True):
            sizes.update(zip(self._inputs[name].shape or (), np.shape(value), strict=False))
        return tuple(self._initial[old] if old in self._initial else _zeros(self._inputs[old], self._outputs[new], sizes) for new, old in self._pairs.items())

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.reset()
        self._owner = -1

    def __repr__(self) -> str:
        return f"<hasten.Stream ({', '.join(self._frames)}), state {', '.join(f'{new} -> {old}' for new, old in self._pairs.items())}>"


def _picker(numbers: list[int]) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    """Those elements of a tuple, always as a tuple."""
    if len(numbers) == 1:
        only = numbers[0]
        return lambda values: (values[only],)
    return operator.itemgetter(*numbers)


def _type(info: TensorInfo) -> str:
    return f"{info.dtype}{list(info.shape) if info.shape is not None else ''}"


def _zeros(info: TensorInfo, after: TensorInfo, sizes: Mapping[Any, int]) -> Any:
    """The first state where none is given. An unknown size is what the call's inputs tell, or else what they tell of `after`, the state that the
    call makes, or else 0, as that of a past that grows."""
    import numpy as np

    from hasten.base.dtypes import to_numpy

    if info.shape is None or after.shape is None:
        raise InputError(f"state {info.name!r} is a {info.dtype}: give its first value with `initial`")
    shape = [_size(d, sizes, _size(e, sizes, 0)) for d, e in zip(info.shape, after.shape, strict=True)]
    return np.zeros(shape, to_numpy(info.dtype))


def _size(d: int | str | None, sizes: Mapping[Any, int], otherwise: int) -> int:
    if not isinstance(d, str):
        return otherwise if d is None else d
    size = parse(d)
    return evaluate(size, sizes) if symbols(size) <= sizes.keys() else otherwise


def _read_only(value: Any) -> Any:
    if not hasattr(value, "setflags"):
        return value
    seen = value.view()
    seen.setflags(write=False)
    return seen
