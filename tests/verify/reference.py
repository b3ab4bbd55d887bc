"""The figures of nsvq-verify, computed on whole arrays (bands, height, width) in double precision."""
import numpy as np

WEIGHTS = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])
TAPS = np.exp(-np.arange(-5, 6) ** 2 / (2 * 1.5**2))
TAPS /= TAPS.sum()


def blur(m):
    windows = np.lib.stride_tricks.sliding_window_view(m, (11, 11))
    return np.einsum("yxij,i,j->yx", windows, TAPS, TAPS)


def halve(m, odd):
    """Means of 2 x 2 pixels; odd: how np.pad treats an odd last row or column."""
    m = np.pad(m, [(0, n % 2) for n in m.shape], mode=odd)
    return (m[::2, ::2] + m[1::2, ::2] + m[::2, 1::2] + m[1::2, 1::2]) / 4


def maps(x, y, peak):
    """SSIM of every window, and the same without its luminance term."""
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    contrast = (2 * cov + c2) / (vx + vy + c2)
    return contrast * (2 * mx * my + c1) / (mx**2 + my**2 + c1), contrast


def ssim_of_band(x, y, valid, peak):
    """SSIM, MS-SSIM, number of scales; None for a figure without a window."""
    x, y = np.where(valid, x, 0.0), np.where(valid, y, 0.0)
    means = []
    while len(means) < 5 and min(x.shape) >= 11:
        whole = np.lib.stride_tricks.sliding_window_view(valid, (11, 11)).all((2, 3))
        if not whole.any():
            break
        means.append([m[whole].mean() for m in maps(x, y, peak)])
        x, y, valid = halve(x, "symmetric"), halve(y, "symmetric"), halve(valid * 1.0, "symmetric") == 1
    if not means:
        return None, None, 0
    weights = WEIGHTS[: len(means)] / WEIGHTS[: len(means)].sum()
    terms = np.array([m[1] for m in means[:-1]] + [means[-1][0]])
    return means[0][0], np.prod(np.maximum(terms, 0) ** weights), len(means)


def decibels(peak, mse):
    return np.inf if mse == 0 else 10 * np.log10(peak**2 / mse)


def patch_psnrs(a, b, valid, peak, side):
    """{(x, y): PSNR} of the patches that count."""
    found = {}
    for y in range(0, a.shape[1], side):
        for x in range(0, a.shape[2], side):
            cell = np.s_[:, y:y + side, x:x + side]
            v = valid[cell]
            if v.any() and v.mean() >= 0.5:
                found[x, y] = decibels(peak, np.mean((a[cell] - b[cell])[v] ** 2))
    return found


def figures(a, b, valid_a, valid_b, peak):
    """As the object `all` and the list `bands` of --json."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    both = valid_a & valid_b
    bands = []
    for x, y, v, m in zip(a, b, both, valid_a != valid_b):
        ssim, ms_ssim, scales = ssim_of_band(x, y, v, peak)
        error = (x - y)[v]
        bands.append({
            "samples": v.sum(), "mismatches": m.sum(), "ssim": ssim, "ms_ssim": ms_ssim,
            "ms_ssim_scales": scales,
            "mse": np.mean(error**2) if v.any() else None,
            "psnr": decibels(peak, np.mean(error**2)) if v.any() else None,
            "max_error": np.abs(error).max() if v.any() else None})
    some = [band for band in bands if band["ssim"] is not None]
    mse = np.mean((a - b)[both] ** 2) if both.any() else None
    whole = {
        "samples": both.sum(), "mismatches": (valid_a != valid_b).any(0).sum(), "mse": mse,
        "psnr": decibels(peak, mse) if both.any() else None,
        "max_error": np.abs(a - b)[both].max() if both.any() else None,
        "ssim": np.mean([band["ssim"] for band in some]) if some else None,
        "ms_ssim": np.mean([band["ms_ssim"] for band in some]) if some else None,
        "ms_ssim_scales": min(band["ms_ssim_scales"] for band in some) if some else 0}
    return whole, bands
