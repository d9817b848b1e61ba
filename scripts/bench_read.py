"""Speed of reading tars against webdataset, and of decoding per core.

python scripts/bench_read.py                               # half a minute
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median

import typer
import webdataset
from made_up import random_weights, write_shard

from clipdre.config import Decode, EncodeConfig, ReadConfig
from clipdre.doctor import diagnose
from clipdre.encoding.decode import decode
from clipdre.formats.tars.samples import Sample
from clipdre.formats.tars.shards import read_samples
from clipdre.models.encoder import OpenClipEncoder
from clipdre.models.load import load_encoder


def by_clipdre(shard: str) -> int:
    """Count samples, with the span, caption and uid of each."""
    return sum(isinstance(found, Sample) for found in read_samples(shard, ReadConfig()))


def by_webdataset(shard: str) -> int:
    """Count samples as webdataset groups them, without decoding."""
    return sum(1 for _ in webdataset.WebDataset(shard, shardshuffle=False, empty_check=False))


def by_doctor(shard: str) -> int:
    """Check a shard as `clipdre doctor` does: the header of every image, keys, captions."""
    return diagnose([shard], ReadConfig()).samples


def decode_all(encoder: OpenClipEncoder, shard: str, way: Decode, threads: int) -> int:
    """Do all work on samples that comes before encoding."""
    config = ReadConfig(decode=way)
    with ThreadPoolExecutor(threads) as pool:
        samples = read_samples(shard, config)
        return sum(1 for _ in pool.map(lambda sample: decode([sample], encoder, config), samples))


def rates(ways: dict[str, Callable[[], int]], repeats: int) -> dict[str, float]:
    """Measure samples per second of each way: medians of interleaved runs."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            started = time.perf_counter()
            count = way()
            found[name].append(count / (time.perf_counter() - started))
    return {name: median(values) for name, values in found.items()}


def print_table(title: str, found: dict[str, float], base: str) -> None:
    """Print one row for each way, with its ratio to the base."""
    print(f"\n{title}\n\n| | samples/s | times {base} |\n|---|---|---|")
    for name, rate in found.items():
        print(f"| {name} | {rate:,.0f} | {rate / found[base]:.2f} |", flush=True)


def main(model: str = "ViT-B-32", samples: int = 4000, images: int = 200, repeats: int = 5) -> None:
    """Print three tables."""
    with tempfile.TemporaryDirectory() as folder:
        weights = random_weights(model, Path(folder) / "weights.pt")
        encoder = load_encoder(EncodeConfig(model, weights, "cpu"))
        shards = {side: str(Path(folder) / f"{side}.tar") for side in (128, 512, 1280)}
        write_shard(Path(shards[128]), samples, 128)
        write_shard(Path(shards[512]), images, 512)
        write_shard(Path(shards[1280]), images, 1280)
        readers = {"clipdre": by_clipdre, "doctor": by_doctor, "webdataset": by_webdataset}
        for side in (128, 512):
            ways = {name: partial(reader, shards[side]) for name, reader in readers.items()}
            title = f"samples of {side} px read in one thread, nothing decoded"
            print_table(title, rates(ways, repeats), "webdataset")
        ways = {
            f"{side} px, {way.value}, {threads} thread{'s' * (threads > 1)}": partial(
                decode_all, encoder, shards[side], way, threads
            )
            for side, way, threads in (
                (512, Decode.EXACT, 1),
                (512, Decode.EXACT, 2),
                (1280, Decode.EXACT, 2),
                (1280, Decode.FAST, 2),
            )
        }
        title = f"read, decoded, preprocessed for {model} and tokenized, not encoded"
        print_table(title, rates(ways, repeats), next(iter(ways)))


if __name__ == "__main__":
    typer.run(main)
