"""The result as text and plots."""

import statistics

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import curve
import peers
import rate


def cell(value, form="+.2f", width=10):
    return f"{'n/a' if value is None else format(value, form):>{width}}"


def mean_cell(m, form="+.2f", width=10):
    if m["mean"] is None:
        return f"{'n/a':>{width}}"
    missing = "" if m["n"] == m["of"] else f"/{m['n']}"
    return f"{format(m['mean'], form) + missing:>{width}}"


def row_of(label, cells):
    return f"{label:42}" + "".join(cells)


def title(text):
    return ["", text, "-" * len(text)]


def heading(about):
    nsvq = about["nsvq"]
    lines = [
        f"# {about['processor']}, {about['cpus']} CPUs, load {about['load']:.1f} at the start; "
        f"commit {about['commit']}; {about['date']}"
    ]
    if nsvq:
        models = ", ".join(f"{name} ({number})" for name, number in nsvq["models"])
        lines += [
            f"# NSVQ {nsvq['version']}, kernels {nsvq['cpu']}, models {models}, default QUALITY "
            f"{about['default_quality']}, OVERVIEWS=NONE (the other codecs have no overviews)"
        ]
    lines += ["# " + about["gdal"], "# " + ", ".join(about["versions"])]
    lines += [f"#   {name}: {text}" for name, text in about["peers"].items()]
    lines += [f"# left out: {line}" for line in about["left_out"]]
    for name, (x, y, w, h) in about["windows"].items():
        lines += [f"# {name}: only {w} x {h} pixels from {x}, {y}"]
    if about["quick"]:
        lines += ["# --quick: a smoke test, no figures to quote"]
    return lines


METRIC_NAMES = {"psnr": "PSNR", "msssim": "MS-SSIM"}
UNITS = {"psnr": "PSNR, dB", "msssim": "MS-SSIM of luma, -10 log10(1 - x), dB"}
SHOWN = [(metric, span) for metric in METRIC_NAMES for span in rate.RANGES]


def summary(result, names):
    """Everybody against the anchor: what to quote."""
    lines = title(f"Summary: BD-rate against {peers.ANCHOR} in one tile, %; negative is smaller")
    lines += [
        f"Over the dB that {peers.ANCHOR} spans at these bpp, as far as the codec has them (ranges "
        "below; MS-SSIM of luma as -10 log10(1 - x)). Mean (smallest to largest) over the images; "
        "/n: n of them have a range of 0.5 dB or more."
    ]
    for name, s in result["sets"].items():
        columns = [f"{METRIC_NAMES[m] + ' ' + span + ' bpp':>28}" for m, span in SHOWN]
        lines += [row_of(name, columns)]
        for codec in names:
            cells = []
            for metric, span in SHOWN:
                m = s["bd_anchor"][metric][span][codec]
                both = "" if m["mean"] is None else f" ({m['min']:+.1f} to {m['max']:+.1f})"
                cells.append(f"{mean_cell(m, '+.1f', 0).strip() + both:>28}")
            lines.append(row_of("    " + codec, cells))
    return lines


def ladder(result, names):
    lines = title(f"Size against {peers.ANCHOR} at equal quality, %, by {peers.ANCHOR}'s bpp")
    lines += ["Negative: smaller. Means over images; x/n: over n of them."]
    for metric, label in METRIC_NAMES.items():
        for name, s in result["sets"].items():
            columns = [f"{bpp:>10}" for bpp in rate.LADDER]
            lines += [row_of(f"{name}, equal {label}", columns)]
            for codec in names:
                cells = [mean_cell(m, "+.1f") for m in s["ladder"][metric][codec]]
                lines.append(row_of("    " + codec, cells))
    return lines


def monotony(images, qualities):
    lines = title("One scale: does a higher QUALITY ever have the larger error?")
    worse = [(i, *step) for i in images for step in i["monotone"]["worse"]]
    smaller = [(i, *step) for i in images for step in i["monotone"]["smaller"]]
    lines += [
        f"{len(qualities)} qualities ({', '.join(map(str, qualities))}) on {len(images)} images: "
        f"{len(worse)} of {len(images) * (len(qualities) - 1)} steps up have the larger error, "
        f"{len(smaller)} the smaller file"
        + (": monotone in error on every image" if not worse else "")
    ]
    for i, a, b, change in worse:
        lines.append(f"    {i['set']}/{i['name']}: {a} to {b}: {change:+.3f} dB")
    for i, a, b, change in smaller:
        lines.append(f"    {i['set']}/{i['name']}: {a} to {b}: {change:+.2%} bytes")
    return lines


def nsvq_points(images):
    lines = title("NSVQ: bpp / PSNR dB / MS-SSIM by QUALITY (whole files)")
    for i in images:
        lines.append(f"{i['set']}/{i['name']}  {i['width']} x {i['height']}")
        area = i["width"] * i["height"]
        rows = [(f"{p['setting']}", p) for p in i["nsvq"]]
        for setting, p in rows + [(f"vq {p['setting']}", p) for p in i["vq"]]:
            lines.append(
                f"    {setting:>5}  {8 * p['bytes'] / area:7.4f} (blocks "
                f"{8 * p['block_bytes'] / area:7.4f})  {p['psnr']:6.2f}  {p['msssim']:.4f}"
            )
    return lines


def equal_bytes(result, metric, names, default):
    images, sets = result["images"], result["sets"]
    lines = title(f"NSVQ at QUALITY {default} minus each codec at the same bytes: {UNITS[metric]}")
    lines += [
        "Positive: NSVQ is better. n/a: the codec has no file so small. x/n: mean over n images."
    ]
    lines += [f"{'':42}{'bpp':>8}{'NSVQ':>9}" + "".join(f"{n:>11}" for n in names)]
    for i in images:
        at = next(p for p in i["nsvq"] if p["setting"] == default)
        scales = "" if i["scales"] == 5 or metric == "psnr" else f" ({i['scales']} scales)"
        lines.append(
            f"{i['set'] + '/' + i['name'] + scales:42}"
            f"{8 * at['bytes'] / (i['width'] * i['height']):8.4f}{curve.decibels(at, metric):9.2f}"
            + "".join(cell(i["equal_bytes"][n][metric], "+.2f", 11) for n in names)
        )
    for name, s in sets.items():
        row = [s["equal_bytes"][n][metric] for n in names]
        lines.append(f"{'mean ' + name:59}" + "".join(mean_cell(m, "+.2f", 11) for m in row))
    return lines


def ranged(b):
    return "n/a" if b["percent"] is None else f"{b['percent']:+.1f}"


def bd_against_anchor(result, metric, span, names):
    """Per image; the ranges of codecs that have less than the anchor's are listed below."""
    lines = title(
        f"BD-rate against {peers.ANCHOR} at equal {METRIC_NAMES[metric]}, %: the dB that "
        f"{peers.ANCHOR} spans at {span} bpp"
    )
    lines += ["Negative: smaller. *: the codec has only a part of that range, listed below."]
    lines += [row_of("", [f"{'range':>14}"] + [f"{n:>11}" for n in names])]
    parts = []
    for i in result["images"]:
        row = i["bd_anchor"][metric][span]
        label = f"{i['set']}/{i['name']}"
        if not row["span"]:
            lines.append(row_of(label, [f"{'n/a':>14}"]))
            continue
        whole = row["span"]
        cells = [f"{f'{whole[0]:.1f}-{whole[1]:.1f}':>14}"]
        short = []
        for n in names:
            b = row["codecs"][n]
            partial = b["percent"] is not None and tuple(b["range"]) != tuple(whole)
            cells.append(f"{ranged(b) + '*' * partial:>11}")
            if partial:
                short.append(f"{n} {b['range'][0]:.1f}-{b['range'][1]:.1f}")
        lines.append(row_of(label, cells))
        if short:
            parts.append(f"    * {label}: {', '.join(short)}")
    for name, s in result["sets"].items():
        means = [mean_cell(s["bd_anchor"][metric][span][n], "+.1f", 11) for n in names]
        lines.append(row_of("mean " + name, [" " * 14] + means))
    return lines + parts


def bd_of_nsvq(result, metric, names):
    lines = title(
        f"BD-rate of NSVQ against each codec at equal {METRIC_NAMES[metric]}, %, over all dB "
        "(range) that both have"
    )
    lines += [
        "Negative: NSVQ is smaller. Ranges under 0.5 dB are left out; x/n: mean over n images."
    ]
    lines += [row_of("", [f"{n:>20}" for n in names])]
    for i in result["images"]:
        cells = []
        for n in names:
            b = i["bd_nsvq"][metric][n]
            span = "" if b["percent"] is None else f" ({b['range'][0]:.1f}-{b['range'][1]:.1f})"
            cells.append(f"{ranged(b) + span:>20}")
        lines.append(row_of(f"{i['set']}/{i['name']}", cells))
    for name, s in result["sets"].items():
        means = [mean_cell(s["bd_nsvq"][metric][n], "+.1f", 20) for n in names]
        lines.append(row_of("mean " + name, means))
    return lines


def prior(result):
    usual, best = rate.VQ_QUALITIES
    lines = title(
        f"FAMILY=VQ at its own QUALITY {usual} and {best}: files against flat codes (48 bits per "
        "16 x 16 pixels = 0.1875 bpp)"
    )
    lines += [
        "flat: all latents, partial ones too, without any container. saving: whole file (blocks "
        f"alone). cost: PSNR at {best} minus PSNR at {usual}.",
        row_of(
            "",
            [f"{'flat bpp':>10}{f'saving at {best}':>20}{f'saving at {usual}':>16}{'cost dB':>10}"],
        ),
    ]

    def cells(p, flat):
        both = f"{p['saving_best']:.1%} ({p['saving_best_blocks']:.1%})"
        return [f"{flat:>10}{both:>20}{p['saving_default']:>16.1%}{p['psnr_cost_default']:10.2f}"]

    for i in result["images"]:
        flat = f"{i['prior']['flat_bpp']:.4f}"
        lines.append(row_of(f"{i['set']}/{i['name']}", cells(i["prior"], flat)))
    for name, s in result["sets"].items():
        p = {k: m["mean"] for k, m in s["prior"].items()}
        lines.append(row_of("mean " + name, cells(p, "")))
    return lines


def spread(values, form=".1f"):
    """Median and smallest to largest."""
    return f"{statistics.median(values):{form}} ({min(values):{form}}-{max(values):{form}})"


def in_process(p, default, runs):
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
    return lines


def codec_speeds(c):
    """Ratios within each run."""
    lines = title(
        f"Speed in process beside other codecs, one thread, {c['side']} x {c['side']} RGB, about "
        "NSVQ's bpp: Mpixel/s, and times NSVQ's speed in the same run (above 1: faster than NSVQ)"
    )
    lines += ["bpp of NSVQ without overviews; its encoding makes them nevertheless."]
    lines += [
        f"{'':28}{'bpp':>8}{'PSNR':>7}{'decode':>24}{'ratio':>18}{'encode':>24}{'ratio':>26}"
    ]
    base = c["codecs"]["NSVQ"]
    for name, f in c["codecs"].items():
        row = f"{name:28}{f['bpp']:8.3f}{f['psnr']:7.2f}"
        for key, form, width in (("decode", ".2f", 18), ("encode", ".2f", 26)):
            ratios = [a / b for a, b in zip(f[key], base[key])]
            row += f"{spread(f[key], '.2f'):>24}{spread(ratios, form):>{width}}"
        lines.append(row)
    return lines


def gdal_speeds(g):
    mega = g["width"] * g["height"] / 1e6
    base = g["formats"]["NSVQ"]
    lines = title(
        f"Speed through GDAL {g['gdal']}, {g['width']} x {g['height']} RGB, about NSVQ's bpp: "
        "Mpixel/s, and times NSVQ's speed in the same run (above 1: faster than NSVQ)"
    )
    if g["left_out"]:
        lines += ["Not in this GDAL: " + ", ".join(g["left_out"])]
    for threads in base["read_s"]:
        lines += [
            f"{threads + ' threads':36}{'bpp':>8}{'PSNR':>7}{'read Mpixel/s':>26}{'ratio':>22}"
            f"{'write Mpixel/s':>24}{'ratio':>22}{'open + window ms':>24}"
        ]
        for name, f in g["formats"].items():
            row = f"{name:36}{f['bpp']:8.3f}{f['psnr']:7.2f}"
            for key, width in (("read_s", 26), ("write_s", 24)):
                ratios = [a / b for a, b in zip(base[key][threads], f[key][threads])]
                row += f"{spread([mega / s for s in f[key][threads]]):>{width}}"
                row += f"{spread(ratios, '.2f'):>22}"
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


def rates(r, about):
    names = list(about["peers"])
    default = about["default_quality"]
    others = [n for n in names if n != peers.ANCHOR]
    rows = ["NSVQ"] * bool(about["nsvq"]) + others
    lines = summary(r, rows)
    if about["nsvq"]:
        lines += monotony(r["images"], about["qualities"])
        for metric in METRIC_NAMES:
            lines += equal_bytes(r, metric, names, default)
    lines += ladder(r, rows)
    for metric, span in SHOWN:
        lines += bd_against_anchor(r, metric, span, rows)
    if about["nsvq"]:
        for metric in METRIC_NAMES:
            lines += bd_of_nsvq(r, metric, names)
        if "prior" in r["images"][0]:
            lines += prior(r)
        lines += nsvq_points(r["images"])
    return lines


def text(result):
    about = result["about"]
    lines = heading(about)
    if "rate" in result:
        lines += rates(result["rate"], about)
    if "speed" in result:
        s = result["speed"]
        if "codecs" in s:
            lines += codec_speeds(s["codecs"])
            lines += in_process(s["in_process"], about["default_quality"], about["runs"])
        lines += gdal_speeds(s["gdal"])
    if "memory" in result:
        lines += memories(result["memory"])
    return "\n".join(lines) + "\n"


# ---- plots ----

BPPS = np.geomspace(0.02, 4, 120)


def curves_of(image, names):
    """NSVQ last, so that it lies on top."""
    out = {n: [image["variants"][v] for v in peers.PEERS[n][0]] for n in names}
    if image["nsvq"]:
        out["NSVQ"] = [image["nsvq"]]
    return out


def style(name, names):
    if name == "NSVQ":
        return {"color": "black", "linewidth": 1.8}
    return {"color": f"C{names.index(name)}", "linewidth": 1.2}


def curves(images, metric, names, path):
    columns = min(4, len(images))
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.6 * columns, 3.6 * rows), squeeze=False)
    for axis, i in zip(axes.flat, images):
        area = i["width"] * i["height"]
        for name, variants in curves_of(i, names).items():
            values = [curve.at_bytes(variants, metric, bpp * area / 8) for bpp in BPPS]
            values = [np.nan if v is None else v for v in values]
            axis.plot(BPPS, values, label=name, **style(name, names))
        axis.plot(
            [8 * p["bytes"] / area for p in i["nsvq"]],
            [curve.decibels(p, metric) for p in i["nsvq"]],
            "ko",
            markersize=3,
        )
        axis.set_xscale("log")
        axis.set_xlim(BPPS[0], BPPS[-1])
        axis.set_title(i["name"], fontsize=9)
        axis.grid(alpha=0.3)
    for axis in list(axes.flat)[len(images) :]:
        axis.axis("off")
    axes[0][0].legend(fontsize=7)
    figure.supxlabel("bpp")
    figure.supylabel(UNITS[metric])
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def sizes(images, set_name, names, path):
    """Mean size against the anchor at equal quality, where all images have both."""
    bpps = np.geomspace(0.05, 3, 60)
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True)
    for axis, metric in zip(axes, METRIC_NAMES):
        known = {}
        for i in images:
            every = curves_of(i, names)
            wanted = bpps * i["width"] * i["height"] / 8
            for name, variants in every.items():
                ratios = curve.log_ratios(variants, every[peers.ANCHOR], metric, wanted)
                known.setdefault(name, []).append(100 * np.expm1(ratios))
        for name, percent in known.items():  # the mean is nan where one is
            axis.plot(bpps, np.mean(percent, axis=0), label=name, **style(name, names))
        axis.set_xscale("log")
        axis.set_xticks([0.05, 0.1, 0.2, 0.5, 1, 2], ["0.05", "0.1", "0.2", "0.5", "1", "2"])
        axis.set_xticks([], minor=True)
        axis.set_ylim(-60, 80)
        axis.set_xlabel(f"bpp of {peers.ANCHOR}")
        axis.set_title(f"equal {METRIC_NAMES[metric]}", fontsize=10)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(f"size against {peers.ANCHOR}, %")
    axes[0].legend(fontsize=8)
    figure.suptitle(f"{set_name}: mean over {len(images)} images (lower is smaller)", fontsize=11)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def gains(images, names, path):
    """NSVQ minus each codec at equal bytes, image by image."""
    figure, axis = plt.subplots(figsize=(11, 0.42 * len(images) + 1.6))
    rows = range(len(images))
    for name, marker in zip(names, "ovsD^P*X"):
        x = [i["equal_bytes"][name]["psnr"] for i in images]
        x = [np.nan if v is None else v for v in x]
        axis.plot(x, rows, marker, label=name, alpha=0.8, color=style(name, names)["color"])
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
    names = [n for n in result["about"]["peers"] if n not in peers.ALONE]
    for name in dict.fromkeys(i["set"] for i in images):
        members = [i for i in images if i["set"] == name]
        sizes(members, name, names, f"{stem}-{name}-sizes.png")
        for metric in METRIC_NAMES:
            curves(members, metric, names, f"{stem}-{name}-{metric}.png")
    if images[0]["nsvq"]:
        gains(images, names, stem + "-gain.png")
