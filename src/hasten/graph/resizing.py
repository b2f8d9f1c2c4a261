"""A convolution with a 1x1 filter behind an enlarging Resize goes in front of it: it mixes channels, Resize mixes pixels, so they commute, and before
it there are fewer pixels. The weights of nearest and linear resizing add up to one, so a bias commutes, too."""

from __future__ import annotations

import onnx_ir as ir

from hasten.graph.edit import Editor, attribute, constant, input_of
from hasten.graph.patterns import nodes_of


def resize_last(edit: Editor) -> int:
    """Conv(Resize(x)) becomes Resize(Conv(x)), where nobody else uses the enlarged picture."""
    changes = 0
    for conv in nodes_of(edit, "Conv"):
        source = conv.inputs[0]
        resize = None if source is None else source.producer()
        if resize is None or source is None or source.is_graph_output() or len(source.uses()) != 1 or resize.graph is not conv.graph:
            continue
        if _enlarges(resize) and _mixes_channels(conv):
            small = edit.value_before(conv, "Conv", [resize.inputs[0], *conv.inputs[1:]])
            plain = {name: a.value for name, a in resize.attributes.items()}
            edit.replace(conv, [edit.value_before(conv, "Resize", [small, *resize.inputs[1:]], plain)])
            changes += 1
    return changes


def _mixes_channels(conv: ir.Node) -> bool:
    """A filter of one pixel, not more channels out than in."""
    weights = constant(input_of(conv, 1))
    if weights is None or weights.ndim < 3 or any(n != 1 for n in weights.shape[2:]) or weights.shape[0] > weights.shape[1]:
        return False
    steps = (*attribute(conv, "strides", ()), attribute(conv, "group", 1))
    return all(s == 1 for s in steps) and not any(attribute(conv, "pads", ()))


def _enlarges(node: ir.Node) -> bool:
    """Resize of spatial axes by known scales of at least one."""
    if node.domain or node.op_type != "Resize" or attribute(node, "axes") or attribute(node, "antialias", 0):
        return False
    if attribute(node, "mode", "nearest") not in ("nearest", "linear") or attribute(node, "coordinate_transformation_mode") == "tf_crop_and_resize":
        return False
    scales = constant(input_of(node, 2))
    return scales is not None and scales.size > 2 and bool((scales[:2] == 1).all() and (scales >= 1).all() and (scales > 1).any())
