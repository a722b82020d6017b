# SPDX-License-Identifier: MIT OR Apache-2.0
"""A line chart of throughput against depth as a self-contained SVG.

The x axis is logarithmic with base two, the y axis starts at zero. Each line carries its
name at its end; the names are moved apart where lines end close together.
"""

import math
from html import escape

_WIDTH, _HEIGHT = 760, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 150, 56, 48
_COLOURS = ("#d1372a", "#2563b0", "#2f8f4e", "#8a5cb8", "#c98a12", "#2b9aa0", "#8b5e3c")
_LABEL_GAP = 15


def _nice_step(top):
    """The step of 1, 2 or 5 times a power of ten that gives five to ten lines."""
    magnitude = 10 ** math.floor(math.log10(top / 5))
    return next(m * magnitude for m in (1, 2, 5, 10) if top / (m * magnitude) <= 8)


def _spread(wanted):
    """Moves label positions apart, keeping their order."""
    placed = []
    for index, y in sorted(enumerate(wanted), key=lambda pair: pair[1]):
        if placed and y < placed[-1][1] + _LABEL_GAP:
            y = placed[-1][1] + _LABEL_GAP
        placed.append((index, y))
    return dict(placed)


class _Scale:
    def __init__(self, depths, top):
        self._first = math.log2(depths[0])
        self._span = math.log2(depths[-1]) - self._first or 1
        self._top = top

    def x(self, depth):
        inner = _WIDTH - _LEFT - _RIGHT
        return _LEFT + inner * (math.log2(depth) - self._first) / self._span

    def y(self, value):
        inner = _HEIGHT - _TOP - _BOTTOM
        return _HEIGHT - _BOTTOM - inner * value / self._top


def _text(x, y, words, extra=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" {extra}>{escape(words)}</text>'


def _grid(scale, depths, step, top, unit):
    for i in range(int(round(top / step)) + 1):
        y = scale.y(i * step)
        yield (f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}" '
               'stroke="#8888" stroke-width="0.5"/>')
        yield _text(_LEFT - 8, y + 4, f"{i * step:g}", 'text-anchor="end"')
    for depth in depths:
        yield _text(scale.x(depth), _HEIGHT - _BOTTOM + 18, str(depth), 'text-anchor="middle"')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    yield _text(middle, _HEIGHT - 10, "requests in flight", 'text-anchor="middle"')
    yield _text(_LEFT - 48, _TOP - 12, unit)


def _lines(scale, series):
    labels = _spread([scale.y(points[max(points)]) for _, points in series])
    for i, (name, points) in enumerate(series):
        colour = _COLOURS[i % len(_COLOURS)]
        path = " ".join(f"{scale.x(d):.1f},{scale.y(v):.1f}" for d, v in sorted(points.items()))
        width = 3 if i == 0 else 1.8
        yield (f'<polyline points="{path}" fill="none" stroke="{colour}" '
               f'stroke-width="{width}" stroke-linejoin="round"/>')
        yield from (f'<circle cx="{scale.x(d):.1f}" cy="{scale.y(v):.1f}" r="{width}" '
                    f'fill="{colour}"/>' for d, v in points.items())
        end = scale.x(max(points)) + 10
        yield _text(end, labels[i] + 4, name, f'fill="{colour}" font-weight="600"')


def plot_svg(title, unit, series):
    """`series` is a list of (name, {depth: value}); the first line is drawn boldest."""
    depths = sorted({depth for _, points in series for depth in points})
    highest = max(value for _, points in series for value in points.values())
    step = _nice_step(highest)
    top = step * math.ceil(highest / step)
    scale = _Scale(depths, top)
    body = [_text(_LEFT - 48, 20, title, 'font-size="14" font-weight="600"'),
            *_grid(scale, depths, step, top, unit), *_lines(scale, series)]
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
            'font-family="sans-serif" font-size="12" fill="#555">\n'
            f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>\n'
            + "\n".join(body) + "\n</svg>\n")
