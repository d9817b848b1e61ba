"""Check shards before you pay for a GPU: read them as `score` does, but encode nothing."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import numpy.typing as npt

from clipdre.config import EngineConfig, ReadConfig
from clipdre.engines.base import Advance, Engine
from clipdre.engines.local import ProcessPerDevice, Threads
from clipdre.engines.open import open_cpus
from clipdre.errors import InputError
from clipdre.formats.files.storage import identify
from clipdre.formats.folders.tables import key_hash
from clipdre.formats.tars.captions import longest_word
from clipdre.formats.tars.images import check_image, decode_image
from clipdre.formats.tars.limits import ImageError
from clipdre.formats.tars.places import shard_names
from clipdre.formats.tars.samples import Failure, Note, NoteKind, Reason, Sample, Stage, printable
from clipdre.formats.tars.shards import read_samples
from clipdre.progress import Progress

EXAMPLES = 3
# Findings that lose no sample, but that a curator should know about.
REPEATED, SHARED, SCATTERED, UNSAFE = "repeated_key", "shared_key", "scattered_key", "unsafe_key"
LONG_WORD = "long_word"
# Bytes that take longer to read than processes to start.
WORTH_PROCESSES = 256_000_000
# Letters without a space that are no longer language.
LONGEST = 1000
DROPPED = "recorded in failures/; its neighbours are scored"
SKIPPED = "recorded in failures/; other shards are scored"
# What clipdre does about each finding, and how to fix it. `_read` can report no other reason.
ADVICE: dict[str, tuple[str, str]] = {
    Reason.BROKEN_TAR.value: (
        "recorded in failures/; samples before it are scored",
        "copy or download the shard again",
    ),
    Reason.GARBAGE.value: (
        "recorded in failures/; reading resumes at the next header",
        "write the shard again",
    ),
    Reason.NOT_A_TAR.value: (SKIPPED, "remove it; it is often a saved error page"),
    Reason.COMPRESSED_TAR.value: (SKIPPED, "decompress it, or use gzip"),
    Reason.EMPTY_FILE.value: (SKIPPED, "copy or download the shard again"),
    Reason.UNREADABLE_SHARD.value: (
        "recorded in failures/; the next run tries again",
        "check access and connection",
    ),
    Reason.DUPLICATE_MEMBER.value: (DROPPED, "set `image_key` to one suffix"),
    Reason.NOT_A_FILE.value: (DROPPED, "write the file itself into the tar"),
    Reason.MEMBER_TOO_LARGE.value: (DROPPED, "raise `max_member_bytes` or `max_json_bytes`"),
    Reason.MISSING_IMAGE.value: (DROPPED, "add its suffix to `image_key`"),
    Reason.MISSING_CAPTION.value: (DROPPED, "set `text_key` to its suffix or to json:FIELD"),
    Reason.EMPTY_CAPTION.value: (DROPPED, "add a caption, or leave the sample out"),
    Reason.INVALID_CAPTION.value: (DROPPED, "encode captions as UTF-8"),
    Reason.CAPTION_TOO_LARGE.value: (DROPPED, "raise `max_caption_bytes`"),
    Reason.UNREADABLE_IMAGE.value: (DROPPED, "download or convert the image again"),
    Reason.IMAGE_TOO_LARGE.value: (DROPPED, "raise `max_pixels`, or scale the image down"),
    Reason.EXTREME_ASPECT_RATIO.value: (DROPPED, "crop the image, or leave the sample out"),
    REPEATED: ("each is scored and emitted under a unique key", "give each sample its own key"),
    SHARED: ("each is scored and emitted under a unique key", "give each sample its own key"),
    SCATTERED: (
        "each part is read as a sample",
        "write the members of a sample next to each other",
    ),
    UNSAFE: ("used as a name, never as a path", "rename it; other tools may write there"),
    LONG_WORD: (
        "scored by its beginning, as any long caption",
        "look at it: it is often data, not a caption",
    ),
    NoteKind.NO_END_MARKER.value: (
        "samples that it holds are scored, with a warning",
        "compare its size with the original's; copy it again",
    ),
    NoteKind.FEWER_SAMPLES.value: (
        "samples that it holds are scored, with a warning",
        "copy or download the shard again",
    ),
    NoteKind.PASSED_OVER.value: (
        "ignored and never emitted, as webdataset does",
        "on macOS, pack with COPYFILE_DISABLE=1",
    ),
}
# Findings that by themselves lose no sample.
HARMLESS = {
    REPEATED,
    SCATTERED,
    UNSAFE,
    LONG_WORD,
    NoteKind.NO_END_MARKER.value,
    NoteKind.PASSED_OVER.value,
}


@dataclass(frozen=True)
class Example:
    """A place where something was found."""

    shard: str
    key: str
    offset: int
    message: str


@dataclass
class Finding:
    """A problem and where it occurs.

    Attributes
    ----------
    lost : bool
        Whether the samples get no scores because of it.
    samples, shards : int
        Number of samples (or of members that belong to none) and of shards concerned.
    examples : list of Example
    """

    lost: bool
    samples: int = 0
    shards: int = 0
    examples: list[Example] = field(default_factory=list)

    def add(self, count: int, examples: Sequence[Example]) -> None:
        """Count the samples of one more shard."""
        self.samples += count
        self.shards += 1
        self.examples += examples[: EXAMPLES - len(self.examples)]


@dataclass(frozen=True)
class Diagnosis:
    """The result of reading all shards; `findings` by reason, the most frequent first."""

    shards: int
    samples: int
    good: int
    findings: dict[str, Finding]

    @property
    def loses(self) -> bool:
        """Whether any sample would get no scores."""
        return any(finding.lost for finding in self.findings.values())


@dataclass
class _Found:
    """One kind of finding in one shard."""

    count: int = 0
    examples: list[Example] = field(default_factory=list)

    def add(self, count: int, example: Example) -> None:
        self.count += count
        if len(self.examples) < EXAMPLES:
            self.examples.append(example)


@dataclass(frozen=True)
class _Read:
    """The findings in one shard, and the hashes of its keys."""

    samples: int
    good: int
    found: dict[str, _Found]
    keys: npt.NDArray[np.uint64]


def diagnose(  # noqa: PLR0913 (how to read, and where)
    urls: Sequence[str],
    config: ReadConfig,
    *,
    decode: bool = False,
    workers: int = 1,
    processes: bool = False,
    engine: EngineConfig | None = None,
) -> Diagnosis:
    """Read all shards and report their problems.

    Parameters
    ----------
    urls : sequence of str
        Paths or URLs of shards.
    config : ReadConfig
        Limits and suffixes, as for `score`.
    decode : bool
        Decode whole images instead of reading only their headers. Many times slower.
    workers : int
        Number of shards read in parallel.
    processes : bool
        Read many bytes in processes, which are faster than threads and take a second to start. A
        script that sets it needs ``if __name__ == "__main__":``.
    engine : EngineConfig or None
        None is this machine. A Ray cluster has workers of its own.
    """
    sizes, names = [_size(url) for url in urls], shard_names(urls)
    work, items = _ReadWork(config, decode), list(zip(urls, names, sizes, strict=True))
    workers = min(workers, len(items))
    here: Engine = Threads(workers)
    if processes and workers > 1 and sum(sizes) >= WORTH_PROCESSES:
        here = ProcessPerDevice(("cpu",) * workers)
    readers = open_cpus(engine or EngineConfig(), here, inputs=urls)
    reports: dict[int, _Read] = {}
    with Progress("read", sum(sizes)) as progress:
        reports.update(readers.run(work, items, progress.advance))
    findings: dict[str, Finding] = {}
    in_order = [reports[n] for n in range(len(items))]
    for report in in_order:
        for name, found in report.found.items():
            finding = findings.setdefault(name, Finding(name not in HARMLESS))
            finding.add(found.count, found.examples)
    _add_shared(findings, names, [report.keys for report in in_order])
    samples, good = (sum(getattr(r, what) for r in in_order) for what in ("samples", "good"))
    ordered = sorted(findings.items(), key=lambda item: (-item[1].samples, item[0]))
    return Diagnosis(len(urls), samples, good, dict(ordered))


@dataclass(frozen=True)
class _ReadWork:
    """Reads one shard after another; an item is its URL, its name and its size."""

    config: ReadConfig
    decode: bool

    def start(self, device: str, advance: Advance) -> Callable[[tuple[str, str, int]], _Read]:  # noqa: ARG002
        """See `clipdre.engines.base.Work`."""

        def do(item: tuple[str, str, int]) -> _Read:
            url, name, size = item
            report = _read(url, name, self.config, self.decode)
            advance(size, report.samples, report.samples - report.good)
            return report

        return do


def _size(url: str) -> int:
    try:
        return identify(url).nbytes
    except InputError:
        return 0


def _read(url: str, shard: str, config: ReadConfig, decode: bool) -> _Read:
    found = defaultdict[str, _Found](_Found)
    seen: Counter[str] = Counter()
    samples = good = 0
    last, place = "", -1
    for record in read_samples(url, config):
        if isinstance(record, Note):
            example = Example(shard, "", record.offset, printable(record.message))
            found[record.kind.value].add(record.count, example)
            continue
        samples += 1
        failure = record if isinstance(record, Failure) else _image_failure(record, config, decode)
        key = printable(record.key)
        here = [] if failure is None else [(failure.reason.value, failure.message)]
        good += failure is None
        another = (key, record.offset) != (last, place)  # not another caption of the same sample
        if key and seen[key] and another:
            scattered = failure is not None and failure.stage is Stage.READ
            name = SCATTERED if scattered and last != key else REPEATED
            here.append((name, "an earlier sample of the shard has the same key"))
        if _is_unsafe(record.key):
            here.append((UNSAFE, "the key leads out of its folder or has control characters"))
        if isinstance(record, Sample) and longest_word(record.caption) > LONGEST:
            here.append((LONG_WORD, f"a word of {longest_word(record.caption):,} letters"))
        seen[key] += 1
        last, place = key, record.offset
        for name, message in here:
            found[name].add(1, Example(shard, key, record.offset, message))
    hashes = [key_hash("", key) for key in seen if key]
    return _Read(samples, good, found, np.array(hashes, np.uint64))


def _image_failure(sample: Sample, config: ReadConfig, decode: bool) -> Failure | None:
    """Return the failure of an image that cannot be used, judged by its header or its pixels."""
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
        or (
            not key.isprintable()
            and any(unicodedata.category(character)[0] == "C" for character in key)
        )
    )


def _add_shared(
    findings: dict[str, Finding], names: Sequence[str], keys: Sequence[npt.NDArray[np.uint64]]
) -> None:
    """Add the keys that several shards have in common."""
    every = np.fromiter(chain.from_iterable(keys), np.uint64, sum(map(len, keys)))
    unique, counts = np.unique(every, return_counts=True)
    shared = unique[counts > 1]
    if not len(shared):
        return
    finding = findings.setdefault(SHARED, Finding(lost=False))
    for name, hashes in zip(names, keys, strict=True):
        here = int(np.isin(hashes, shared).sum())
        if here:
            message = "other shards have the same keys"
            finding.add(here, [Example(name, "", 0, message)])
