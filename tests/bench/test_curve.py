"""Curves whose BD-rate is known."""

import os
import sys

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import curve


def points(scale, sizes=(100, 200, 400, 800, 1600)):
    """3 dB, and a tenth of 1 - MS-SSIM, for every doubling of scale x sizes."""
    return [
        {
            "bytes": scale * size,
            "psnr": 30 + 3 * np.log2(size / 100),
            "msssim": 1 - 0.1 ** (1 + np.log2(size / 100)),
        }
        for size in sizes
    ]


def near(a, b):
    return abs(a - b) < 1e-6


def check_ratio(metric):
    anchor, curve_of = [points(1)], [points(0.8)]
    span = curve.common(curve.span_of(anchor, metric), curve.span_of(curve_of, metric))
    assert near(curve.bd_rate(curve_of, anchor, metric, span), -20)
    assert near(curve.bd_rate(anchor, curve_of, metric, span), 25)
    assert curve.bd_rate(curve_of, anchor, metric, (span[0], span[0] + 0.4)) is None
    ratios = curve.log_ratios(curve_of, anchor, metric, [50, 100, 300, 1600, 2000])
    assert np.isnan(ratios[0]) and np.isnan(ratios[4])
    assert all(near(r, np.log(0.8)) for r in ratios[1:4])


def main():
    for metric in curve.METRICS:
        check_ratio(metric)
    assert near(curve.decibels({"msssim": 0.99}, "msssim"), 20)
    # Best of variants at every size: each is ahead in its half only.
    low, high = points(1, (100, 200)), points(0.9, (400, 800))
    assert near(curve.at_bytes([low, high], "psnr", 200), 33)
    assert near(curve.at_bytes([low, high], "psnr", 360), 36)
    assert curve.at_bytes([low, high], "psnr", 250) is None
    # A larger file that is no better does not count.
    wasteful = points(1) + [{"bytes": 300, "psnr": 31, "msssim": 0.5}]
    assert curve.front(wasteful, "psnr") == curve.front(points(1), "psnr")
    assert np.isinf(curve.log_sizes([low], "psnr", [40.0]))[0]


main()
