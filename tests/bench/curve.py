"""Rate-distortion curves: lists of points {"bytes": .., "psnr": .., "msssim": ..}."""
import numpy as np


def front(points, metric):
    """The points that no smaller file equals, by size."""
    kept = []
    for p in sorted(points, key=lambda p: (p["bytes"], -p[metric])):
        if not kept or p[metric] > kept[-1][metric]:
            kept.append(p)
    return kept


def at_bytes(points, metric, size):
    """The metric at that size, linear in log size between the two nearest points; None outside."""
    kept = front(points, metric)
    if not kept or not kept[0]["bytes"] <= size <= kept[-1]["bytes"]:
        return None
    logs = np.log([p["bytes"] for p in kept])
    return float(np.interp(np.log(size), logs, [p[metric] for p in kept]))


def psnr_range(points):
    values = [p["psnr"] for p in points]
    return (min(values), max(values))


def common(a, b):
    return (max(a[0], b[0]), min(a[1], b[1]))


def bd_rate(points, anchor, span):
    """Mean difference of log size over span (dB), in %; None where span is under 0.5 dB.

    Both curves are piecewise linear in (PSNR, log size); span must lie within both."""
    low, high = span
    if high - low < 0.5:
        return None
    curves = []
    for kept in (front(points, "psnr"), front(anchor, "psnr")):
        curves.append(([p["psnr"] for p in kept], np.log([p["bytes"] for p in kept])))
    knots = sorted({low, high} | {x for c in curves for x in c[0] if low < x < high})
    diff = np.interp(knots, *curves[0]) - np.interp(knots, *curves[1])
    area = np.sum((diff[1:] + diff[:-1]) / 2 * np.diff(knots))
    return float(100 * np.expm1(area / (high - low)))
