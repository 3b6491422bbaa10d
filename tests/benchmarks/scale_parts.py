"""The parts of scale.py, each run in a process of its own: `scale_parts.py NAME WORDS…`.

Each prints one JSON object. MB of memory are above the process as it was before, its imports done.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

EDITS = 16


def memory(what: str) -> float:
    """MB resident: VmRSS now, VmHWM at the peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {what}")


def peak_reset() -> float:
    """Forget the peak so far; MB resident now."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def seconds(act: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun


def forget(path: Path) -> None:
    """Drop a file from the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def features(d_sae: int) -> list[int]:
    return random.Random(3).sample(range(d_sae), EDITS)


def importing() -> dict[str, float]:
    import torch  # noqa: F401

    def ours() -> None:
        import dictionaries.cards
        import dictionaries.catalog
        import dictionaries.formats  # noqa: F401

    return {"import_s": round(seconds(ours), 3)}


def make_sparse(folder: str, d_sae: str, d_in: str) -> dict[str, float]:
    import huge

    source = huge.published(Path(folder) / "published", int(d_sae), int(d_in), real=False)
    huge.packed(source, Path(folder) / "packed", features(int(d_sae)))
    return {"gb": round(1e-9 * (source / "sae_weights.safetensors").stat().st_size, 1)}


def make_real(folder: str, d_sae: str, d_in: str) -> dict[str, float]:
    import huge

    huge.published(Path(folder), int(d_sae), int(d_in), real=True)
    return {}


def make_cards(path: str, count: str) -> dict[str, float]:
    import huge

    spent = seconds(lambda: huge.cards(Path(path), int(count)))
    return {"cards_made_s": round(spent, 1), "cards_gb": round(1e-9 * os.stat(path).st_size, 2)}


def opening(folder: str, suffix: str) -> dict[str, float]:
    import torch

    from dictionaries.formats import open_dictionary

    torch.zeros(8) @ torch.zeros(8)
    before = peak_reset()
    spent = seconds(lambda: open_dictionary(folder))
    return {
        f"open{suffix}_s": round(spent, 3),
        f"open{suffix}_mb": round(memory("VmHWM") - before, 1),
    }


def attaching(folder: str, suffix: str) -> dict[str, float]:
    """16 features, from the disk and then from the page cache, by a newly opened dictionary."""
    from dictionaries.formats import open_dictionary

    ids = features(open_dictionary(folder).info.d_sae)
    forget(next(Path(folder).glob("*.safetensors")))
    before = peak_reset()
    cold = seconds(lambda: open_dictionary(folder).rows(ids))
    opened = open_dictionary(folder)
    warm = seconds(lambda: opened.rows(ids))
    return {
        f"attach{suffix}_ms": round(1e3 * warm, 2),
        f"open_and_attach{suffix}_cold_ms": round(1e3 * cold, 1),
        f"attach{suffix}_mb": round(memory("VmHWM") - before, 1),
    }


def steering(small: str, large: str) -> dict[str, float]:
    """The hook's time a token, 16 clamps on one row, the two dictionaries in turns."""
    import torch

    from dictionaries.edits import Op
    from dictionaries.formats import open_dictionary
    from server.engine.hook import Part, SiteHook
    from server.engine.mount import Mount
    from server.engine.tables import Phase
    from server.engine.types import FeatureEdit

    torch.set_num_threads(1)
    hooks = []
    for folder in (small, large):
        opened = open_dictionary(folder)
        mount = Mount(opened, 1, EDITS, torch.device("cpu"))
        clamp = Op.CLAMP.edit(2.0)
        edits = [
            FeatureEdit(opened.info.id, i, Op.CLAMP, 2.0, clamp)
            for i in features(opened.info.d_sae)
        ]
        mount.table.write(0, mount.prepare(edits))
        hooks.append(SiteHook([mount]))
        own = slice(0, 1), slice(0, 1), Phase.GENERATED, None, None, False
        hooks[-1].parts = [Part(*own)]
    x = torch.randn(1, 1, opened.info.d_in)
    times: list[list[float]] = [[], []]
    with torch.inference_mode():
        for turn in range(400):
            for which in (0, 1) if turn % 2 else (1, 0):
                begun = time.process_time()
                for _ in range(50):
                    hooks[which](x)
                times[which].append((time.process_time() - begun) / 50)
    ratios = [large / small for small, large in zip(*times, strict=True)]
    return {
        "steering_us": round(1e6 * statistics.median(times[1]), 1),
        "steering_small_us": round(1e6 * statistics.median(times[0]), 1),
        "steering_ratio": round(statistics.median(ratios), 3),
    }


def searching(path: str) -> dict[str, float]:
    """Pages of 20 as they are asked for while typing, in every sort, with their counts."""
    import huge

    from dictionaries.cards import Cards

    before = peak_reset()
    begun = time.perf_counter()
    cards = Cards.open(path)
    opened = time.perf_counter() - begun
    cards.get(7)
    count = seconds(lambda: len(cards))
    words, draw = huge.vocabulary(), random.Random(4)
    frequent = [words[int(len(words) ** draw.random()) - 1] for _ in range(300)]
    asked = [word[: draw.randint(1, len(word))] for word in frequent]
    asked += [f"{a} {b}" for a, b in zip(frequent, asked, strict=True)]
    sorts = ("relevance", "relevance", "density", "maximum", "label", "feature")
    times = [1e3 * seconds(lambda q=q: cards.search(q, sort=draw.choice(sorts))) for q in asked]
    some = [  # no card has all words of these
        1e3 * seconds(lambda q=q: cards.search(q, sort=draw.choice(sorts), some=True))
        for q in (f"{q} nowherefound" for q in asked)
    ]
    browsed = [
        1e3 * seconds(lambda: cards.search(sort=draw.choice(sorts), offset=draw.randrange(1000)))
        for _ in range(100)
    ]
    return {
        "cards_open_ms": round(1e3 * opened, 2),
        "cards_count_ms": round(1e3 * count, 1),
        "search_p50_ms": round(statistics.median(times), 2),
        "search_p95_ms": round(sorted(times)[int(0.95 * len(times))], 2),
        "search_most_ms": round(max(times), 1),
        "search_some_p95_ms": round(sorted(some)[int(0.95 * len(some))], 2),
        "browse_p95_ms": round(sorted(browsed)[94], 2),
        "search_mb": round(memory("VmHWM") - before, 1),
    }


def copying(path: str) -> dict[str, float]:
    """The disk's own speed: read from the disk, written, and waited for."""
    source, target = Path(path), Path(path).with_suffix(".copy")
    forget(source)

    def copy() -> None:
        with source.open("rb") as read, target.open("wb") as written:
            while block := read.read(8 * 2**20):
                written.write(block)
            written.flush()
            os.fdatasync(written.fileno())

    spent = seconds(copy)
    target.unlink()
    return {"copy_mb_s": round(1e-6 * source.stat().st_size / spent, 1)}


def packing(source: str, out: str) -> dict[str, float]:
    from dictionaries.formats import open_dictionary
    from dictionaries.pack import pack

    file = Path(source) / "sae_weights.safetensors"
    forget(file)
    spent = seconds(lambda: pack(open_dictionary(source), Path(out)))
    return {
        "pack_mb_s": round(1e-6 * file.stat().st_size / spent, 1),
        "pack_peak_mb": round(memory("VmHWM"), 1),
    }


def scanning(folder: str) -> dict[str, float]:
    """Neighbours of a feature, and the top features of 64 tokens, over the whole file."""
    import torch

    from dictionaries.formats import open_dictionary

    torch.set_num_threads(1)
    opened = open_dictionary(folder)
    half = opened.info.d_sae * opened.info.d_in * 2e-9  # GB of one matrix
    x = torch.randn(64, opened.info.d_in)
    before = peak_reset()
    near = seconds(lambda: opened.neighbours(1, 10))
    with torch.inference_mode():
        top = seconds(lambda: opened.top(x, 10))
    return {
        "neighbours_gb_s": round(half / near, 2),
        "top_gb_s": round(half / top, 2),
        "scan_mb": round(memory("VmHWM") - before, 1),
    }


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
