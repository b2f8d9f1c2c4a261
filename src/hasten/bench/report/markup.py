"""HTML and SVG from Python calls: `el("td", text, class_="number")`. Text is escaped, elements are not; the result is well-formed XML."""

from __future__ import annotations

from html import escape

VOID = frozenset({"br", "meta", "circle", "line", "path", "rect", "polygon", "col"})


class Markup(str):
    """Text that is markup already."""


def el(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element. `class_` is the attribute class, `stroke_width` is stroke-width; what is None is left out."""
    words = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(_text(value))}"' for key, value in attributes.items() if value is not None)
    if name in VOID:
        return Markup(f"<{name}{words}/>")
    return Markup(f"<{name}{words}>{join(*children)}</{name}>")


def join(*children: object) -> Markup:
    """Several one after the other; lists are flattened, None is left out."""
    made: list[str] = []
    for child in children:
        if isinstance(child, (list, tuple)):
            made.append(join(*child))
        elif child is not None:
            made.append(child if isinstance(child, Markup) else escape(_text(child), quote=False))
    return Markup("".join(made))


def svg(width: float, height: float, title: str, *children: object) -> Markup:
    """A picture that shrinks with the page; `title` is what screen readers say."""
    return el("svg", el("title", title), *children, viewBox=f"0 0 {width:g} {height:g}", width=width, height=height, role="img")


def _text(value: object) -> str:
    """Numbers as short as a picture needs them; characters that XML forbids as spaces."""
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return "".join(c if c >= " " or c in "\n\t" else " " for c in str(value))
