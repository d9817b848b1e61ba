"""What is wrong with shards, before a model is loaded: read as `score` reads, nothing encoded."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import numpy.typing as npt

from clipdre.config import ReadConfig
from clipdre.errors import InputError
from clipdre.formats.files.storage import identify
from clipdre.formats.folders.tables import key_hash
from clipdre.formats.tars.images import ImageError, check_image, decode_image
from clipdre.formats.tars.samples import Failure, Reason, Sample, Stage, printable
from clipdre.formats.tars.shards import read_samples, shard_name
from clipdre.progress import Progress

EXAMPLES = 3
# What nothing is lost by, but a curator should know.
REPEATED, SHARED, SCATTERED, UNSAFE = "repeated_key", "shared_key", "scattered_key", "unsafe_key"
DROPPED = "recorded in failures/, the samples around it are scored"
# Of each finding: what clipdre does about it, and what its owner can do.
ADVICE: dict[str, tuple[str, str]] = {
    Reason.BROKEN_TAR.value: ("samples before it are scored", "copy or download the shard again"),
    Reason.GARBAGE.value: ("passed over to the next header", "write the shard anew"),
    Reason.NOT_A_TAR.value: ("recorded, other shards go on", "remove it: often an error page"),
    Reason.COMPRESSED_TAR.value: ("recorded, other shards go on", "decompress it, or use gzip"),
    Reason.EMPTY_FILE.value: ("recorded, other shards go on", "download the shard again"),
    Reason.UNREADABLE_SHARD.value: ("tried again by the next run", "check access and connection"),
    Reason.DUPLICATE_MEMBER.value: (DROPPED, "name one image suffix by --image-key"),
    Reason.NOT_A_FILE.value: (DROPPED, "write the files themselves into the tar"),
    Reason.MEMBER_TOO_LARGE.value: (DROPPED, "raise --max-member-bytes or --max-json-bytes"),
    Reason.MISSING_IMAGE.value: (DROPPED, "name its suffix by --image-key"),
    Reason.MISSING_CAPTION.value: (DROPPED, "name its suffix by --text-key, or json:FIELD"),
    Reason.EMPTY_CAPTION.value: (DROPPED, "caption it, or leave it out"),
    Reason.INVALID_CAPTION.value: (DROPPED, "write captions as UTF-8"),
    Reason.CAPTION_TOO_LARGE.value: (DROPPED, "raise --max-caption-bytes"),
    Reason.UNREADABLE_IMAGE.value: (DROPPED, "download or convert it again"),
    Reason.IMAGE_TOO_LARGE.value: (DROPPED, "raise --max-pixels, or scale it down"),
    Reason.EXTREME_ASPECT_RATIO.value: (DROPPED, "crop it, or leave it out"),
    REPEATED: ("each is scored; emitted under its own name", "give samples keys of their own"),
    SHARED: ("each is scored; emitted with its shard's name", "give samples keys of their own"),
    SCATTERED: ("its parts are samples of their own", "write a sample's members side by side"),
    UNSAFE: ("a name only: nothing is written there", "rename it: other tools may write there"),
}


@dataclass(frozen=True)
class Example:
    """Where something was found."""

    shard: str
    key: str
    offset: int
    message: str


@dataclass
class Finding:
    """One thing that is wrong.

    Attributes
    ----------
    lost : bool
        Whether samples have no scores for it.
    samples, shards : int
        How many it concerns.
    examples : list of Example
    """

    lost: bool
    samples: int = 0
    shards: int = 0
    examples: list[Example] = field(default_factory=list)

    def add(self, count: int, examples: Sequence[Example]) -> None:
        """Count what a shard has of it."""
        self.samples += count
        self.shards += 1
        self.examples += examples[: EXAMPLES - len(self.examples)]


@dataclass(frozen=True)
class Diagnosis:
    """What came of reading all shards; `findings` by reason, the most frequent first."""

    shards: int
    samples: int
    good: int
    findings: dict[str, Finding]

    @property
    def loses(self) -> bool:
        """Whether anything would be lost."""
        return self.good < self.samples


@dataclass(frozen=True)
class _Read:
    """One shard: what its samples are, by finding, and the hashes of its keys."""

    samples: int
    good: int
    found: dict[str, list[Example]]
    keys: npt.NDArray[np.uint64]


def diagnose(
    urls: Sequence[str], config: ReadConfig, *, decode: bool = False, workers: int = 1
) -> Diagnosis:
    """Read all shards and say what is wrong with them.

    Parameters
    ----------
    decode : bool
        Decode images to their last pixel, where else their headers are read: many times slower.
    """
    sizes = [_size(url) for url in urls]
    findings: dict[str, Finding] = {}
    samples = good = 0
    keys = []
    with Progress("read", sum(sizes)) as progress, ThreadPoolExecutor(workers) as threads:
        reports = threads.map(lambda url: _read(url, config, decode), urls)
        for size, report in zip(sizes, reports, strict=True):
            samples += report.samples
            good += report.good
            keys.append(report.keys)
            for name, examples in report.found.items():
                lost = name not in (REPEATED, SCATTERED, UNSAFE)
                findings.setdefault(name, Finding(lost)).add(len(examples), examples)
            progress.advance(size, report.samples)
    _add_shared(findings, urls, keys)
    ordered = sorted(findings.items(), key=lambda item: (-item[1].samples, item[0]))
    return Diagnosis(len(urls), samples, good, dict(ordered))


def _size(url: str) -> int:
    try:
        return identify(url).nbytes
    except InputError:
        return 0


def _read(url: str, config: ReadConfig, decode: bool) -> _Read:
    shard, found = shard_name(url), dict[str, list[Example]]()
    seen: Counter[str] = Counter()
    samples = good = 0
    last = ""
    for record in read_samples(url, config):
        samples += 1
        failure = record if isinstance(record, Failure) else _image_failure(record, config, decode)
        key = printable(record.key)
        here = [] if failure is None else [(failure.reason.value, failure.message)]
        good += failure is None
        if key and seen[key]:
            scattered = failure is not None and failure.stage is Stage.READ
            name = SCATTERED if scattered and last != key else REPEATED
            here.append((name, "this key was there before"))
        if _is_unsafe(record.key):
            here.append((UNSAFE, "leads out of its folder, or has control characters"))
        seen[key] += 1
        last = key
        for name, message in here:
            found.setdefault(name, []).append(Example(shard, key, record.offset, message))
    hashes = [key_hash("", key) for key in seen if key]
    return _Read(samples, good, found, np.array(hashes, np.uint64))


def _image_failure(sample: Sample, config: ReadConfig, decode: bool) -> Failure | None:
    """Why an image cannot be used, by its header, or by all of it."""
    look = decode_image if decode else check_image
    try:
        look(sample.image, max_pixels=config.max_pixels, max_aspect_ratio=config.max_aspect_ratio)
    except ImageError as error:
        return Failure(sample.key, sample.offset, Stage.DECODE, error.reason, str(error))
    return None


def _is_unsafe(key: str) -> bool:
    return (
        key.startswith("/")
        or ".." in key.split("/")
        or any(unicodedata.category(character)[0] == "C" for character in key)
    )


def _add_shared(
    findings: dict[str, Finding], urls: Sequence[str], keys: Sequence[npt.NDArray[np.uint64]]
) -> None:
    """Keys that more than one shard has."""
    every = np.fromiter(chain.from_iterable(keys), np.uint64, sum(map(len, keys)))
    unique, counts = np.unique(every, return_counts=True)
    shared = unique[counts > 1]
    if not len(shared):
        return
    finding = findings.setdefault(SHARED, Finding(lost=False))
    for url, hashes in zip(urls, keys, strict=True):
        here = int(np.isin(hashes, shared).sum())
        if here:
            message = "other shards have these keys, too"
            finding.add(here, [Example(shard_name(url), "", 0, message)])
