"""What the size of the synthesis buys: models that differ in the blocks of its body alone, each trained for the same number
of steps; the rate of their integer networks at equal PSNR on held-out pictures against the smallest, mean over the rates
of the training card, 0.1 to 4 bpp.
usage: python3 tests/bench/sizes.py --data FOLDER [--train build/release/trainer/nsvq-train] [--bodies 1 3 5 8]
       [--folder DIR] [-- OPTION...]      e.g. -- --preset hyper8 --steps 5000 --batch 4 --lr 0.001"""
import argparse
import os
import re
import subprocess
import sys

import curve


def train(arguments, options, body):
    """The training card."""
    model = os.path.join(arguments.folder, "body%d.nsvqm" % body)
    if not os.path.exists(model):
        subprocess.run([arguments.train, "--data", arguments.data, "--family", "hyper", "--body", str(body),
                        "--out", model, "--quiet", *options], check=True)
    return subprocess.run([arguments.train, "info", model], check=True, capture_output=True, text=True).stdout


def points(card):
    found = re.findall(r"integer ([0-9.]+) dB ([0-9.]+) bpp", card)
    return [{"psnr": float(psnr), "bytes": float(bpp)} for psnr, bpp in found]


def main():
    own = sys.argv[1:]
    at = own.index("--") if "--" in own else len(own)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--train", default="build/release/trainer/nsvq-train")
    parser.add_argument("--bodies", type=int, nargs="+", default=[1, 3, 5, 8])
    parser.add_argument("--folder", default="sizes")
    arguments = parser.parse_args(own[:at])
    os.makedirs(arguments.folder, exist_ok=True)
    base = None
    for body in arguments.bodies:
        card = train(arguments, own[at + 1:], body)
        line = re.search(r"synthesis ([0-9.]+), entropy model ([0-9.]+)", card)
        curves = [points(card)]
        base = base or curves
        span = curve.common(curve.span_of(curves, "psnr"), curve.span_of(base, "psnr"))
        print("body of %2d blocks: synthesis %s kMAC/pixel, rate %+.2f %%; %s" %
              (body, line.group(1), curve.bd_rate(curves, base, "psnr", span), re.search("trained: .*", card).group()),
              flush=True)


main()
