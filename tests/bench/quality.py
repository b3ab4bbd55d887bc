"""PSNR and MS-SSIM of 8-bit images, [height][width][3]."""

import numpy as np

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang, Simoncelli, Bovik 2003
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
TAPS = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
TAPS = (TAPS / TAPS.sum()).astype(np.float32)


def psnr(a, b):
    """Over all bands together, peak 255."""
    mse = np.mean(np.square(a.astype(np.float32) - b), dtype=np.float64)
    return float(10 * np.log10(255.0**2 / max(mse, 1e-10)))


def luma(image):
    """BT.601 weights."""
    return image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)


def blur(maps):
    """11 x 11 Gaussian, sigma 1.5, valid part only; maps [n][height][width]."""
    h, w = maps.shape[1] - 10, maps.shape[2] - 10
    rows = sum(t * maps[:, i : i + h] for i, t in enumerate(TAPS))
    return sum(t * rows[:, :, i : i + w] for i, t in enumerate(TAPS))


def halve(x):
    x = x[: x.shape[0] // 2 * 2, : x.shape[1] // 2 * 2]
    return (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4


def n_scales(shape):
    """Five, or as many as leave 11 pixels on the shorter side (176 pixels for five)."""
    return min(5, int(np.log2(min(shape[:2]) / 11)) + 1)


def msssim(a, b):
    """On luma. With fewer than five scales the weights of those used are scaled to sum 1."""
    x, y = luma(a), luma(b)
    scales = n_scales(a.shape)
    weights = np.array(WEIGHTS[:scales]) / sum(WEIGHTS[:scales])
    product = 1.0
    for i, weight in enumerate(weights):
        mx, my, xx, yy, xy = blur(np.stack([x, y, x * x, y * y, x * y]))
        cs = (2 * (xy - mx * my) + C2) / (xx - mx * mx + yy - my * my + C2)
        if i == scales - 1:
            cs = cs * (2 * mx * my + C1) / (mx * mx + my * my + C1)
        product *= max(float(np.mean(cs, dtype=np.float64)), 0.0) ** weight
        x, y = halve(x), halve(y)
    return product
