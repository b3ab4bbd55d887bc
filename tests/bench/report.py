"""The result as text and plots."""

import statistics

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import curve
import peers
import rate

NAMES = list(peers.PEERS)


def cell(value, form="+.2f", width=10):
    return f"{'n/a' if value is None else format(value, form):>{width}}"


def mean_cell(m, form="+.2f", width=10):
    if m["mean"] is None:
        return f"{'n/a':>{width}}"
    missing = "" if m["n"] == m["of"] else f"/{m['n']}"
    return f"{format(m['mean'], form) + missing:>{width}}"


def title(text):
    return ["", text, "-" * len(text)]


def heading(about):
    nsvq = about["nsvq"]
    lines = [
        f"# {about['processor']}, {about['cpus']} CPUs, load {about['load']:.1f} at the start; "
        f"commit {about['commit']}; {about['date']}"
    ]
    if nsvq:
        lines += [
            f"# NSVQ {nsvq['version']}, kernels {nsvq['cpu']}, model {nsvq['model']} "
            f"({nsvq['id']}), default QUALITY {about['default_quality']}"
        ]
    lines += ["# " + about["gdal"], "# " + ", ".join(about["versions"])]
    lines += [f"#   {name}: {text}" for name, text in about["peers"].items()]
    if about["quick"]:
        lines += ["# --quick: a smoke test, no figures to quote"]
    return lines


def nsvq_points(images):
    lines = title("NSVQ: bpp / PSNR dB / MS-SSIM by QUALITY (whole files)")
    for i in images:
        lines.append(f"{i['set']}/{i['name']}  {i['width']} x {i['height']}")
        area = i["width"] * i["height"]
        for p in i["nsvq"]:
            lines.append(
                f"    {p['setting']:>3}  {8 * p['bytes'] / area:7.4f} (blocks "
                f"{8 * p['block_bytes'] / area:7.4f})  {p['psnr']:6.2f}  {p['msssim']:.4f}"
            )
    return lines


def equal_bytes(result, metric, form, default):
    images, sets = result["images"], result["sets"]
    unit = "PSNR, dB" if metric == "psnr" else "MS-SSIM (luma, 5 scales) x 1000"
    scale = 1 if metric == "psnr" else 1000
    lines = title(f"NSVQ at QUALITY {default} minus each codec at the same bytes: {unit}")
    lines += [
        "Positive: NSVQ is better. n/a: the codec has no file so small. x/n: mean over n images."
    ]
    lines += [f"{'':42}{'bpp':>8}{'NSVQ':>9}" + "".join(f"{n:>11}" for n in NAMES)]
    for i in images:
        at = next(p for p in i["nsvq"] if p["setting"] == default)
        scales = "" if i["scales"] == 5 or metric == "psnr" else f" ({i['scales']} scales)"
        gains = [i["equal_bytes"][n][metric + "_gain"] for n in NAMES]
        lines.append(
            f"{i['set'] + '/' + i['name'] + scales:42}"
            f"{8 * at['bytes'] / (i['width'] * i['height']):8.4f}{scale * at[metric]:9.2f}"
            + "".join(cell(g and g * scale, form, 11) for g in gains)
        )
    for name, s in sets.items():
        row = [s["equal_bytes"][n][metric] for n in NAMES]
        row = [{**m, "mean": m["mean"] and m["mean"] * scale} for m in row]
        lines.append(f"{'mean ' + name:59}" + "".join(mean_cell(m, form, 11) for m in row))
    return lines


def bd_against_anchor(result):
    lines = title(
        f"BD-rate against {peers.ANCHOR}, %, over the PSNR range that {peers.ANCHOR} spans at "
        "these bpp and the codec has"
    )
    lines += ["Negative: smaller. Ranges under 0.5 dB are left out; x/n: mean over n images."]
    for span in rate.RANGES:
        columns = list(next(iter(result["sets"].values()))["bd_anchor"][span])
        lines += [f"{span + ' bpp':42}" + "".join(f"{c:>11}" for c in columns)]
        for name, s in result["sets"].items():
            lines.append(
                f"{name:42}"
                + "".join(mean_cell(s["bd_anchor"][span][c], "+.1f", 11) for c in columns)
            )
    return lines


def bd_of_nsvq(result):
    lines = title("BD-rate of NSVQ against each codec, %, over the PSNR range (dB) that both have")
    lines += [
        "Negative: NSVQ is smaller. Ranges under 0.5 dB are left out; x/n: mean over n images."
    ]
    lines += [f"{'':42}" + "".join(f"{n:>20}" for n in NAMES)]
    for i in result["images"]:
        row = []
        for n in NAMES:
            b = i["bd_nsvq"][n]
            text = (
                "n/a"
                if b["percent"] is None
                else f"{b['percent']:+.1f} ({b['range'][0]:.1f}-{b['range'][1]:.1f})"
            )
            row.append(f"{text:>20}")
        lines.append(f"{i['set'] + '/' + i['name']:42}" + "".join(row))
    for name, s in result["sets"].items():
        lines.append(
            f"{'mean ' + name:42}" + "".join(mean_cell(s["bd_nsvq"][n], "+.1f", 20) for n in NAMES)
        )
    return lines


def prior(result, default):
    lines = title(
        "Saving of the prior against flat codes (48 bits per 16 x 16 pixels = 0.1875 bpp)"
    )
    lines += [
        "flat: all latents, partial ones too, without any container. At QUALITY 100 both hold the "
        "same codes, so the same PSNR.",
        f"saving: whole file (blocks alone). cost: PSNR at 100 minus PSNR at {default}.",
        f"{'':42}{'flat bpp':>10}{'at 100':>20}{f'at {default}':>10}{'cost dB':>10}",
    ]
    for i in result["images"]:
        p = i["prior"]
        both = f"{p['saving_100']:.1%} ({p['saving_100_blocks']:.1%})"
        lines.append(
            f"{i['set'] + '/' + i['name']:42}{p['flat_bpp']:10.4f}{both:>20}"
            f"{p['saving_default']:>10.1%}{p['psnr_cost_default']:10.2f}"
        )
    for name, s in result["sets"].items():
        p = {k: m["mean"] for k, m in s["prior"].items()}
        both = f"{p['saving_100']:.1%} ({p['saving_100_blocks']:.1%})"
        lines.append(
            f"{'mean ' + name:52}{both:>20}{p['saving_default']:>10.1%}"
            f"{p['psnr_cost_default']:10.2f}"
        )
    return lines


def spread(values, form=".1f"):
    """Median and smallest to largest."""
    return f"{statistics.median(values):{form}} ({min(values):{form}}-{max(values):{form}})"


def speeds(result, default, runs):
    p = result["in_process"]
    mega = p["width"] * p["height"] / 1e6
    lines = title(
        f"Speed in process, {p['width']} x {p['height']} RGB, QUALITY {default}: median "
        f"(smallest-largest) of {runs} runs"
    )
    for threads, t in p["threads"].items():
        lines.append(
            f"{threads} threads: encode {spread([mega / s for s in t['encode_s']], '.2f')} "
            f"Mpixel/s, decode {spread([mega / s for s in t['decode_s']])} Mpixel/s, open + "
            f"512 x 512 window {spread([1e3 * s for s in t['window_s']])} ms"
        )
    g = result["gdal"]
    base = g["formats"]["NSVQ"]
    lines += title(
        f"Speed through GDAL {g['gdal']}, the same raster: Mpixel/s, and times NSVQ's speed in "
        "the same run (above 1: faster than NSVQ)"
    )
    for threads in base["read_s"]:
        lines += [
            f"{threads + ' threads':36}{'bpp':>8}{'PSNR':>7}{'read Mpixel/s':>26}{'ratio':>18}"
            f"{'write Mpixel/s':>24}{'ratio':>18}{'open + window ms':>24}"
        ]
        for name, f in g["formats"].items():
            row = f"{name:36}{f['bpp']:8.3f}{f['psnr']:7.2f}"
            for key, width in (("read_s", 26), ("write_s", 24)):
                ratios = [a / b for a, b in zip(base[key][threads], f[key][threads])]
                row += f"{spread([mega / s for s in f[key][threads]]):>{width}}"
                row += f"{spread(ratios, '.2f'):>18}"
            lines.append(row + f"{spread([1e3 * s for s in f['window_s'][threads]]):>24}")
    return lines


def memories(m):
    lines = title(
        f"Peak memory (VmHWM) of gdal_translate, {m['side']} x {m['side']} RGB, GDAL_CACHEMAX "
        f"{m['cache_mib']} MB, {m['threads']} threads"
    )
    for name, c in m["conversions"].items():
        lines.append(f"{name:28}{c['peak_mib']:8.0f} MiB  in {c['seconds']:.0f} s")
    return lines


def text(result):
    about = result["about"]
    default = about["default_quality"]
    lines = heading(about)
    if "rate" in result:
        r = result["rate"]
        if about["nsvq"]:
            lines += equal_bytes(r, "psnr", "+.2f", default)
            lines += equal_bytes(r, "msssim", "+.2f", default)
            lines += bd_of_nsvq(r)
        lines += bd_against_anchor(r)
        if about["nsvq"]:
            lines += prior(r, default) + nsvq_points(r["images"])
    if "speed" in result:
        lines += speeds(result["speed"], default, about["runs"])
    if "memory" in result:
        lines += memories(result["memory"])
    return "\n".join(lines) + "\n"


# ---- plots ----

BPPS = np.geomspace(0.02, 3, 120)


def axis_value(value, metric):
    if value is None:
        return np.nan
    return value if metric == "psnr" else -10 * np.log10(1 - value)


def curves(images, metric, path):
    columns = min(4, len(images))
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.6 * columns, 3.6 * rows), squeeze=False)
    for axis, i in zip(axes.flat, images):
        area = i["width"] * i["height"]
        for name, (members, _) in peers.PEERS.items():
            variants = [i["variants"][m] for m in members]
            values = [curve.at_bytes(variants, metric, bpp * area / 8) for bpp in BPPS]
            axis.plot(BPPS, [axis_value(v, metric) for v in values], label=name, linewidth=1.2)
        axis.plot(
            [8 * p["bytes"] / area for p in i["nsvq"]],
            [axis_value(p[metric], metric) for p in i["nsvq"]],
            "ko-",
            label="NSVQ",
            markersize=3,
            linewidth=1.2,
        )
        axis.set_xscale("log")
        axis.set_xlim(BPPS[0], BPPS[-1])
        axis.set_title(i["name"], fontsize=9)
        axis.grid(alpha=0.3)
    for axis in list(axes.flat)[len(images) :]:
        axis.axis("off")
    unit = "PSNR, dB" if metric == "psnr" else "MS-SSIM of luma, -10 log10(1 - x)"
    axes[0][0].legend(fontsize=7)
    figure.supxlabel("bpp")
    figure.supylabel(unit)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def gains(images, path):
    """NSVQ minus each codec at equal bytes, image by image."""
    figure, axis = plt.subplots(figsize=(11, 0.42 * len(images) + 1.6))
    rows = range(len(images))
    for name, marker in zip(NAMES, "ovsD^P*"):
        x = [i["equal_bytes"][name]["psnr_gain"] for i in images]
        axis.plot([np.nan if v is None else v for v in x], rows, marker, label=name, alpha=0.8)
    axis.axvline(0, color="black", linewidth=1)
    axis.set_yticks(rows, [i["name"] for i in images], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("PSNR of NSVQ minus the codec's at equal bytes, dB (right: NSVQ is better)")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def plot(result, stem):
    images = result["rate"]["images"]
    for name in dict.fromkeys(i["set"] for i in images):
        members = [i for i in images if i["set"] == name]
        for metric in ("psnr", "msssim"):
            curves(members, metric, f"{stem}-{name}-{metric}.png")
    if images[0]["nsvq"]:
        gains(images, stem + "-gain.png")
