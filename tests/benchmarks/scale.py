"""What size costs: opening, attaching, steering, searching, packing and scanning huge dictionaries.

    python tests/benchmarks/scale.py                       small enough for a minute
    python tests/benchmarks/scale.py --features 34000000 --cards 4000000 --gigabytes 4

Dictionaries are sparse files; only what is packed, scanned and searched is really there
(--gigabytes three times, cards about 1 GB a million). Every part runs in a process of its own, so
that its memory is its own. Everything is deleted again. The last line on stdout is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from hosting import REPO

D_IN = 4096
SMALL = 1024
WANTED = {  # what the numbers are held against: (at most or at least, value)
    "import_s": ("<", 0.5),
    "open_s": ("<", 1.0),
    "open_packed_s": ("<", 1.0),
    "open_mb": ("<", 50),
    "open_packed_mb": ("<", 50),
    "attach_packed_ms": ("<", 250),
    "steering_ratio": ("<", 1.03),
    "search_p95_ms": ("<", 30),
    "search_some_p95_ms": ("<", 30),
    "cards_open_ms": ("<", 30),
    "pack_over_copy": (">", 0.6),
    "pack_peak_mb": ("<", 500),
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--features", type=int, default=1_000_000, help="of the sparse dictionary")
    parser.add_argument("--cards", type=int, default=50_000)
    parser.add_argument("--gigabytes", type=float, default=0.25, help="that are really packed")
    parser.add_argument("--folder", type=Path, help="where the files go; default: a temporary one")
    return parser.parse_args()


def part(name: str, *words: object) -> dict[str, Any]:
    """The numbers of one function of `scale_parts`, from a process of its own."""
    script = Path(__file__).with_name("scale_parts.py")
    done = subprocess.run(
        [sys.executable, str(script), name, *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(REPO)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{name:10}", "  ".join(f"{key} {value}" for key, value in found.items()), flush=True)
    return found


def measure(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    huge, small = folder / "huge", folder / "small"
    found = part("importing")
    part("make_sparse", huge, asked.features, D_IN)
    part("make_sparse", small, SMALL, D_IN)
    found |= part("opening", huge / "published", "")
    found |= part("opening", huge / "packed", "_packed")
    found |= part("attaching", huge / "published", "")
    found |= part("attaching", huge / "packed", "_packed")
    found |= part("steering", small / "packed", huge / "packed")
    if asked.cards:
        found |= part("make_cards", folder / "cards.sqlite", asked.cards)
        found |= part("searching", folder / "cards.sqlite")
        (folder / "cards.sqlite").unlink()
    if asked.gigabytes:
        features = int(asked.gigabytes * 1e9 / (4 * D_IN))
        part("make_real", folder / "real", features, D_IN)
        copied = [part("copying", folder / "real" / "sae_weights.safetensors")]
        found |= part("packing", folder / "real", folder / "real-packed")
        copied.append(part("copying", folder / "real" / "sae_weights.safetensors"))
        found["copy_mb_s"] = sum(one["copy_mb_s"] for one in copied) / 2  # disks drift
        found["pack_over_copy"] = round(found["pack_mb_s"] / found["copy_mb_s"], 2)
        found |= part("scanning", folder / "real-packed")
    return found


def main() -> None:
    asked = arguments()
    if asked.folder is not None:
        asked.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="steerdeck-scale-", dir=asked.folder))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # stopped, it cleans up as well
    try:
        found = measure(asked, folder)
    finally:
        shutil.rmtree(folder)
    print()
    for name, (sign, value) in WANTED.items():
        if name in found:
            kept = found[name] < value if sign == "<" else found[name] > value
            print(f"{name:18} {found[name]:>10} {sign} {value:<6} {'' if kept else 'NOT KEPT'}")
    sizes = {"features": asked.features, "d_in": D_IN, "cards": asked.cards}
    print(json.dumps({**sizes, "gigabytes": asked.gigabytes, **found}))


if __name__ == "__main__":
    main()
