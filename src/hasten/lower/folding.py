"""What depends on constants only is computed while the model is compiled, and becomes a constant."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hasten.kernels import expr as E
from hasten.lower import trace as T
from hasten.lower.evaluate import Evaluation
from hasten.lower.trace import Tensor

if TYPE_CHECKING:
    from hasten.lower.emit import Emission

FOLD_LIMIT = 1 << 22  # elements up to which constant subexpressions are computed at compile time
FOLD_POINTS = 1 << 24  # evaluations of one expression that this may take


def fold(e: Emission, t: Tensor) -> bool:
    """Compute t now where it depends on constants only."""
    if not isinstance(t.origin, (T.Map, T.View, T.Nest, T.Concat)) or not all(isinstance(d, int) for d in t.shape):
        return False
    if isinstance(t.size, int) and t.size > FOLD_LIMIT or not is_static(e, t):
        return False
    array = Evaluation(e.cx, {}).of(t)
    t.origin = T.Const(np.ascontiguousarray(array).reshape(array.shape))  # which makes vectors of scalars
    return True


def is_static(e: Emission, t: Tensor) -> bool:
    """Whether t depends on constants only, and little enough to be computed here."""
    memo = e.static
    if id(t) not in memo:
        o = t.origin
        memo[id(t)] = False
        if isinstance(o, T.Const):
            memo[id(t)] = True
        elif isinstance(o, (T.Map, T.View, T.Nest)) and all(isinstance(d, int) for d in t.shape):
            look = e.schedule.look(t)
            free = {s for x in look.exprs for s in E.free_symbols(x) if not s.startswith(("o$", "r$"))}
            fixed = isinstance(look.points, int) and look.points <= FOLD_POINTS and not free
            memo[id(t)] = fixed and all(is_static(e, u) for u, _ in look.loads)
        elif isinstance(o, T.Concat):
            memo[id(t)] = all(is_static(e, u) for u in o.parts)
        e.keep.append(t)
    return memo[id(t)]
