"""The most memory that a forward holds at once, beside the original's.

python benchmarks/memory.py [--batch 1 8] [--train] [NAME ...]
"""

from __future__ import annotations

import argparse

from peers import PEERS
from versus import ours, training

from mobilevlm.compare.memory import measured_peak
from mobilevlm.compare.timing import forward
from mobilevlm.projectors.table import align

NAMES = ("ldpnet 1024->2048", "ldpnetv2 1024->2048", "c-abstractor", "llava", "gemma3 1152")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--train", action="store_true")
    args = parser.parse_args()
    rows = []
    for name in PEERS:
        if not any(part in name for part in args.names):
            continue
        peer = PEERS[name].make()
        for batch in args.batch:
            x = peer.x.expand(batch, -1, -1).contiguous()
            call = ours(peer)
            if args.train:
                runs = [training(peer.theirs, peer.module, x), training(call, peer.ours, x)]
            else:
                runs = [forward(peer.theirs, x), forward(call, x)]
            a, b = (measured_peak(run, x.device) or 0 for run in runs)
            rows.append([name, str(batch), f"{a / 1e6:.0f}", f"{b / 1e6:.0f}", f"{a / b:.2f}"])
    print(align(["projector", "B", "peer, MB", "ours, MB", "ratio"], rows, right={1, 2, 3, 4}))


if __name__ == "__main__":
    main()
