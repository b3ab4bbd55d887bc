"""Rate-distortion curves. A curve is a list of variants, a variant a list of points
{"bytes": .., "psnr": .., "msssim": ..}. Every variant is piecewise linear in (dB, log size); the
curve is the best of its variants at every size."""

import numpy as np

METRICS = ("psnr", "msssim")
SAMPLES = 2001  # of a range


def decibels(point, metric):
    """PSNR, or MS-SSIM as -10 log10(1 - x)."""
    if metric == "psnr":
        return point["psnr"]
    return float(-10 * np.log10(max(1 - point["msssim"], 1e-9)))


def front(points, metric):
    """(dB, bytes) of the points that no smaller file equals, by size."""
    kept = []
    for size, value in sorted((p["bytes"], -decibels(p, metric)) for p in points):
        if not kept or -value > kept[-1][0]:
            kept.append((-value, size))
    return kept


def at_bytes(variants, metric, size):
    """dB at that size; None where no variant has files both smaller and larger."""
    values = []
    for points in variants:
        kept = front(points, metric)
        if kept and kept[0][1] <= size <= kept[-1][1]:
            logs = np.log([b for _, b in kept])
            values.append(float(np.interp(np.log(size), logs, [v for v, _ in kept])))
    return max(values, default=None)


def log_sizes(variants, metric, values):
    """Of the smallest file at each of these dB; infinite where there is none."""
    best = np.full(len(values), np.inf)
    for points in variants:
        kept = front(points, metric)
        if kept:
            known, logs = [v for v, _ in kept], np.log([b for _, b in kept])
            best = np.minimum(best, np.interp(values, known, logs, left=np.inf, right=np.inf))
    return best


def span_of(variants, metric):
    values = [v for points in variants for v, _ in front(points, metric)]
    return (min(values), max(values))


def common(a, b):
    return (max(a[0], b[0]), min(a[1], b[1]))


def bd_rate(curve, anchor, metric, span):
    """Mean difference of log size over span (dB), in %; None where span is under 0.5 dB.

    span must lie within both curves."""
    if span[1] - span[0] < 0.5:
        return None
    values = np.linspace(*span, SAMPLES)
    diff = log_sizes(curve, metric, values) - log_sizes(anchor, metric, values)
    return float(100 * np.expm1(np.mean((diff[1:] + diff[:-1]) / 2)))


def log_ratios(curve, anchor, metric, sizes):
    """log(size / anchor's size) at the quality that the anchor has at these sizes; nan: unknown."""
    values = [at_bytes(anchor, metric, size) for size in sizes]
    logs = log_sizes(curve, metric, [np.nan if v is None else v for v in values])
    found = [v is not None and np.isfinite(log) for v, log in zip(values, logs)]
    return [float(a - np.log(b)) if ok else np.nan for a, b, ok in zip(logs, sizes, found)]
