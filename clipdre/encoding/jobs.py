"""Runs the jobs of a pool's shards: here one after another, or on several devices at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing.queues import SimpleQueue
from pathlib import Path

from clipdre.config import EncodeConfig, ReadConfig
from clipdre.encoding.encode import ShardEmbeddings, commit_shard, encode_shard
from clipdre.errors import ClipdreError, ModelError
from clipdre.formats.folders.embeddings import EmbeddingFiles
from clipdre.formats.folders.manifest import ShardRecord
from clipdre.models.encoder import Encoder
from clipdre.models.load import load_encoder
from clipdre.progress import Progress

ShardEncoder = Callable[[ShardRecord, Progress], ShardEmbeddings]


@dataclass(frozen=True)
class ShardJob:
    """A shard to be encoded, and where what comes of it is written."""

    index: int
    shard: ShardRecord
    files: EmbeddingFiles
    failures: Path
    stamp: dict[str, str]

    def run(self, encode: ShardEncoder, progress: Progress) -> ShardRecord:
        """Encode the shard and write its files."""
        found = encode(self.shard, progress)
        return commit_shard(found, self.shard, self.files, self.failures, self.stamp)


Done = Iterator[tuple[int, ShardRecord]]
JobRunner = Callable[[Sequence[ShardJob], Progress], Done]


def here(encode: ShardEncoder) -> JobRunner:
    """One job after another, in this process."""

    def run(jobs: Sequence[ShardJob], progress: Progress) -> Done:
        for job in jobs:
            yield job.index, job.run(encode, progress)

    return run


def on_devices(devices: Sequence[str], read: ReadConfig, encode: EncodeConfig) -> JobRunner:
    """A process for each device, which takes the next job whenever it is done with one.

    What is written does not depend on which device wrote it.

    Raises
    ------
    ModelError
        When a process dies, by a lack of memory for instance.
    """

    def run(jobs: Sequence[ShardJob], progress: Progress) -> Done:
        if not jobs:
            return
        context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
        names = context.SimpleQueue()
        for device in devices:
            names.put(device)
        own = replace(encode, workers=max(1, encode.workers // len(devices)))
        with ProcessPoolExecutor(
            len(devices), mp_context=context, initializer=_start, initargs=(names, read, own)
        ) as processes:
            futures = {processes.submit(_run, job): job for job in jobs}
            try:
                for future in as_completed(futures):
                    job, record = futures[future], future.result()
                    progress.advance(job.shard.nbytes, record.samples)
                    yield job.index, record
            except BrokenProcessPool as error:
                raise ModelError(
                    "a process that encodes on a device of its own died, for lack of memory "
                    "perhaps: give a smaller --batch-size, or one --device, and the run goes on "
                    "where it was (a script that calls clipdre.score needs "
                    'if __name__ == "__main__":)'
                ) from error
            finally:
                processes.shutdown(wait=False, cancel_futures=True)

    return run


class _Silent(Progress):
    """Of a process whose jobs are told by the one that gave them."""

    def __init__(self) -> None:
        pass

    def advance(self, work: int, samples: int = 0) -> None:
        pass


# Of a process for one device: how it encodes, or why it cannot.
_worker: ShardEncoder | ClipdreError


def _start(names: SimpleQueue[str], read: ReadConfig, encode: EncodeConfig) -> None:
    global _worker  # noqa: PLW0603 (what an initializer leaves to the jobs)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, and ends
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    try:
        encoder: Encoder = load_encoder(replace(encode, device=names.get()))
    except ClipdreError as error:
        _worker = error
        return

    def shard_encoder(shard: ShardRecord, progress: Progress) -> ShardEmbeddings:
        return encode_shard(shard, encoder, read, encode, progress)

    _worker = shard_encoder


def _run(job: ShardJob) -> ShardRecord:
    if isinstance(_worker, ClipdreError):
        raise _worker
    return job.run(_worker, _Silent())


def _end_with_the_parent() -> None:
    """Nobody is left to hold the output folder's lock: leave it to the next run."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
