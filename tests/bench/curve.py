"""Rate-distortion curves. A curve is a list of variants, a variant a list of points
{"bytes": .., "psnr": .., "msssim": ..}. Every variant is piecewise linear in (metric, log size);
the curve is the best of its variants at every size."""

import numpy as np

SAMPLES = 2001  # of a PSNR range


def front(points, metric):
    """The points that no smaller file equals, by size."""
    kept = []
    for p in sorted(points, key=lambda p: (p["bytes"], -p[metric])):
        if not kept or p[metric] > kept[-1][metric]:
            kept.append(p)
    return kept


def at_bytes(variants, metric, size):
    """The metric at that size; None where no variant has files both smaller and larger."""
    values = []
    for points in variants:
        kept = front(points, metric)
        if kept[0]["bytes"] <= size <= kept[-1]["bytes"]:
            logs = np.log([p["bytes"] for p in kept])
            values.append(float(np.interp(np.log(size), logs, [p[metric] for p in kept])))
    return max(values, default=None)


def log_sizes(variants, psnrs):
    """Of the smallest file at each PSNR."""
    best = np.full(len(psnrs), np.inf)
    for points in variants:
        kept = front(points, "psnr")
        logs = np.interp(
            psnrs,
            [p["psnr"] for p in kept],
            np.log([p["bytes"] for p in kept]),
            left=np.inf,
            right=np.inf,
        )
        best = np.minimum(best, logs)
    return best


def psnr_range(variants):
    values = [p["psnr"] for points in variants for p in front(points, "psnr")]
    return (min(values), max(values))


def common(a, b):
    return (max(a[0], b[0]), min(a[1], b[1]))


def bd_rate(curve, anchor, span):
    """Mean difference of log size over span (dB), in %; None where span is under 0.5 dB.

    span must lie within both curves."""
    if span[1] - span[0] < 0.5:
        return None
    psnrs = np.linspace(*span, SAMPLES)
    diff = log_sizes(curve, psnrs) - log_sizes(anchor, psnrs)
    return float(100 * np.expm1(np.mean((diff[1:] + diff[:-1]) / 2)))
