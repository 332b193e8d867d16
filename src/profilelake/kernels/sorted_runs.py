"""Sorted runs of message ids as pages: packing rows, the filter in front, finding, merging.

A row is five words: both words of a keyed 128-bit hash, a time, a place at that time, a digest. A
run is a sequence of 4-KiB pages, each with a checksum of its own in its first word, so that a page
can be trusted when it is read and no earlier. Rows lie bit-packed in a page: the first hash word as
its distance from the page's first row, the time as its distance from the run's smallest, the others
in as many bits as the run's largest needs. What lies where in the file is the caller's business.
"""

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from profilelake.kernels._compiled import compiled, read_only

Words: TypeAlias = npt.NDArray[np.uint64]
Longs: TypeAlias = npt.NDArray[np.int64]
Bytes: TypeAlias = npt.NDArray[np.uint8]

PAGE_WORDS: Final = 512
PAGE_BYTES: Final = 8 * PAGE_WORDS
ROW_WORDS: Final = 5
"""First and second hash word, time, place (log number above the index in the record), digest."""
FILTER_BITS_PER_ROW: Final = 12
"""About one false hit in two hundred; a false hit costs the reading of one page."""
DIGEST_BITS: Final = 32
_HEAD_BITS: Final = 3 * 64
"""Checksum, first hash word of the first row, count of rows."""
_BUCKET_WORDS: Final = 4
_BUCKETS_PER_PAGE: Final = (PAGE_WORDS - _BUCKET_WORDS) // _BUCKET_WORDS
FENCES_PER_PAGE: Final = PAGE_WORDS - 1

# What a layout holds, by place.
_FIRST_BITS: Final = 0
_TIME_BASE: Final = 1
_TIME_BITS: Final = 2
_LOG_BITS: Final = 3
_INDEX_BITS: Final = 4
_ROW_BITS: Final = 5
ROWS_PER_PAGE: Final = 6
"""Place in a layout: how many rows a full page holds."""


def layout_of(rows: int, *, time_min: int, time_max: int, log_max: int, index_max: int) -> Longs:
    """Return how the rows of a run with these bounds are packed."""
    fixed = (
        64 + (time_max - time_min).bit_length() + log_max.bit_length() + index_max.bit_length() + DIGEST_BITS
    )
    at_least = (PAGE_BYTES * 8 - _HEAD_BITS) // (fixed + 64)
    # Hashes are even, so a page spans about 2^64 * its rows / all rows; twice that is plenty. A page
    # that spans more all the same is closed early.
    first_bits = max(1, min(64, 66 - max(1, rows // max(1, at_least)).bit_length()))
    row_bits = first_bits + fixed
    per_page = (PAGE_BYTES * 8 - _HEAD_BITS) // row_bits
    return np.array(
        [
            first_bits,
            time_min,
            (time_max - time_min).bit_length(),
            log_max.bit_length(),
            index_max.bit_length(),
            row_bits,
            per_page,
        ],
        dtype=np.int64,
    )


def filter_pages(rows: int) -> tuple[int, int]:
    """Return how many buckets the filter of a run has, and on how many pages they lie."""
    buckets = max(1, -(-rows * FILTER_BITS_PER_ROW // (64 * _BUCKET_WORDS)))
    return buckets, -(-buckets // _BUCKETS_PER_PAGE)


@compiled
def _checksum(words: Words, page: int, number: int) -> np.uint64:
    """Return the checksum of a page; its number in the file goes in, so no page stands for another."""
    prime = np.uint64(0x9E3779B97F4A7C15)
    at = page * PAGE_WORDS
    a = np.uint64(number) + np.uint64(0x243F6A8885A308D3)
    b = np.uint64(0x13198A2E03707344)
    c = np.uint64(0xA4093822299F31D0)
    d = np.uint64(0x082EFA98EC4E6C89)
    high = np.uint64(32)
    d = (d ^ words[at + 1]) * prime
    c = (c ^ words[at + 2]) * prime
    b = (b ^ words[at + 3]) * prime
    for word in range(at + 4, at + PAGE_WORDS, 4):
        a = (a ^ words[word]) * prime
        b = (b ^ words[word + 1]) * prime
        c = (c ^ words[word + 2]) * prime
        d = (d ^ words[word + 3]) * prime
        # A product carries a change upwards only; this brings it down again.
        a ^= a >> high
        b ^= b >> high
        c ^= c >> high
        d ^= d >> high
    for other in (b, c, d):
        a = (a ^ other) * prime
        a ^= a >> high
    return a


@compiled
def seal(words: Words, pages: int, number: int) -> None:
    """Write the checksums of pages that stand from page `number` on in their file."""
    for page in range(pages):
        words[page * PAGE_WORDS] = _checksum(words, page, number + page)


@compiled
def damaged(words: Words, pages: int, number: int) -> int:
    """Return the first page whose checksum is wrong, -1 where all are right."""
    for page in range(pages):
        if words[page * PAGE_WORDS] != _checksum(words, page, number + page):
            return page
    return -1


# ---- rows in pages -----------------------------------------------------------------------------


@compiled
def _bits(words: Words, at: int, width: int) -> np.uint64:
    word, shift = at >> 6, at & 63
    value: np.uint64 = words[word] >> np.uint64(shift)
    if shift + width > 64:
        value |= words[word + 1] << np.uint64(64 - shift)
    if width < 64:
        value &= (np.uint64(1) << np.uint64(width)) - np.uint64(1)
    return value


@compiled
def _put(words: Words, at: int, width: int, value: np.uint64) -> None:
    word, shift = at >> 6, at & 63
    words[word] |= value << np.uint64(shift)
    if shift + width > 64:
        words[word + 1] |= value >> np.uint64(64 - shift)


@compiled
def pack(
    rows: Words, count: int, last: bool, layout: Longs, pages: Words, fences: Words, fences_from: int
) -> tuple[int, int]:
    """Pack sorted rows into zeroed pages; return how many rows were taken and pages filled.

    Unless these are the `last` rows, those that do not fill a page are left for the next call.
    """
    first_bits, per_page = layout[_FIRST_BITS], layout[ROWS_PER_PAGE]
    time_base, time_bits = np.uint64(layout[_TIME_BASE]), layout[_TIME_BITS]
    log_bits, index_bits = layout[_LOG_BITS], layout[_INDEX_BITS]
    span_max = np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(64 - first_bits)
    start = 0
    page = 0
    room = pages.size // PAGE_WORDS
    while start < count and page < room:
        base = rows[start, 0]
        stop = start
        while stop < count and stop - start < per_page and rows[stop, 0] - base <= span_max:
            stop += 1
        if stop == count and stop - start < per_page and not last:
            break
        head = page * PAGE_WORDS
        pages[head + 1] = base
        pages[head + 2] = np.uint64(stop - start)
        at = (head << 6) + _HEAD_BITS
        for row in range(start, stop):
            place = rows[row, 3]
            _put(pages, at, first_bits, rows[row, 0] - base)
            at += first_bits
            _put(pages, at, 64, rows[row, 1])
            at += 64
            _put(pages, at, time_bits, rows[row, 2] - time_base)
            at += time_bits
            _put(pages, at, log_bits, place >> np.uint64(32))
            at += log_bits
            _put(pages, at, index_bits, place & np.uint64(0xFFFFFFFF))
            at += index_bits
            _put(pages, at, DIGEST_BITS, rows[row, 4])
            at += DIGEST_BITS
        fences[fences_from + page] = base
        page += 1
        start = stop
    return start, page


@compiled
def unpack(pages: Words, count: int, number: int, layout: Longs, rows: Words) -> int:
    """Unpack whole pages that stand from page `number` on in their file into `rows`.

    Returns how many rows there were; -1 - page where that page is damaged.
    """
    first_bits = layout[_FIRST_BITS]
    time_base, time_bits = np.uint64(layout[_TIME_BASE]), layout[_TIME_BITS]
    log_bits, index_bits = layout[_LOG_BITS], layout[_INDEX_BITS]
    out = 0
    for page in range(count):
        head = page * PAGE_WORDS
        if pages[head] != _checksum(pages, page, number + page):
            return -1 - page
        base = pages[head + 1]
        at = (head << 6) + _HEAD_BITS
        for _ in range(np.int64(pages[head + 2])):
            rows[out, 0] = base + _bits(pages, at, first_bits)
            at += first_bits
            rows[out, 1] = _bits(pages, at, 64)
            at += 64
            rows[out, 2] = time_base + _bits(pages, at, time_bits)
            at += time_bits
            log = _bits(pages, at, log_bits)
            at += log_bits
            rows[out, 3] = (log << np.uint64(32)) | _bits(pages, at, index_bits)
            at += index_bits
            rows[out, 4] = _bits(pages, at, DIGEST_BITS)
            at += DIGEST_BITS
            out += 1
    return out


# ---- the filter --------------------------------------------------------------------------------
# Split-block bloom: eight bits a row, one in each 32-bit half of a bucket of four words. The bucket
# follows from the first hash word and grows with it, so that a run is filtered, and sorted keys are
# tried, from one end of the filter to the other.


def filter_page(first: int, buckets: int) -> int:
    """Return the page of the filter that a row with this first hash word is on."""
    return (((first >> 32) * buckets) >> 32) // _BUCKETS_PER_PAGE


@compiled
def filter_add(rows: Words, start: int, count: int, buckets: int, window: Words, window_from: int) -> int:
    """Add sorted rows to the filter pages in `window`, which begin with page `window_from`.

    Returns the first row that lies behind the window.
    """
    pages = window.size // PAGE_WORDS
    one, mask = np.uint64(1), np.uint64(31)
    for row in range(start, count):
        bucket = int(np.int64(((rows[row, 0] >> np.uint64(32)) * np.uint64(buckets)) >> np.uint64(32)))
        page = bucket // _BUCKETS_PER_PAGE - window_from
        if page >= pages:
            return row
        at = page * PAGE_WORDS + _BUCKET_WORDS * (1 + bucket % _BUCKETS_PER_PAGE)
        second = rows[row, 1]
        for word in range(_BUCKET_WORDS):
            window[at + word] |= (one << (second & mask)) | (
                one << (np.uint64(32) + ((second >> np.uint64(5)) & mask))
            )
            second >>= np.uint64(10)
    return count


@compiled
def filter_hits(
    words: Words, page_from: int, buckets: int, trusted: Bytes, keys: Words, heads: Longs, hits: Longs
) -> int:
    """Write to `hits` which of the sorted `keys[heads]` the filter lets pass; return how many.

    `words` is the whole file, the filter begins with page `page_from`; pages that were found whole
    are marked in `trusted` and not checked again. Returns -1 - page where that page is damaged.
    """
    found = 0
    one, mask = np.uint64(1), np.uint64(31)
    for number in range(heads.size):
        row = int(heads[number])
        bucket = int(np.int64(((keys[row, 0] >> np.uint64(32)) * np.uint64(buckets)) >> np.uint64(32)))
        page = bucket // _BUCKETS_PER_PAGE
        if trusted[page] == 0:
            if words[(page_from + page) * PAGE_WORDS] != _checksum(words, page_from + page, page_from + page):
                return -1 - (page_from + page)
            trusted[page] = 1
        at = (page_from + page) * PAGE_WORDS + _BUCKET_WORDS * (1 + bucket % _BUCKETS_PER_PAGE)
        second = keys[row, 1]
        missing = np.uint64(0)
        for word in range(_BUCKET_WORDS):
            wanted = (one << (second & mask)) | (one << (np.uint64(32) + ((second >> np.uint64(5)) & mask)))
            missing |= wanted & ~words[at + word]
            second >>= np.uint64(10)
        hits[found] = row
        # Without a branch: whether a key passes cannot be foretold, and its cache line is waited for
        # while the next ones are asked for already.
        found += missing == np.uint64(0)
    return found


# ---- finding -----------------------------------------------------------------------------------


@compiled
def find(
    words: Words,
    page_from: int,
    fences: Words,
    layout: Longs,
    keys: Words,
    wanted: Longs,
    count: int,
    found: Words,
    links: Longs,
    newest: Longs,
    held: int,
) -> int:
    """Append to `found` time, place and digest of each row of the run that has a wanted key.

    The rows found for one key are a list: `newest[key row]` is the last one and `links` leads from
    one to the one before, -1 at the end. `held` rows are there already. Returns how many are now
    (more than there is room for: those beyond were not stored), or -1 - page where that is damaged.
    """
    first_bits, row_bits = layout[_FIRST_BITS], layout[_ROW_BITS]
    time_base, time_bits = np.uint64(layout[_TIME_BASE]), layout[_TIME_BITS]
    log_bits, index_bits = layout[_LOG_BITS], layout[_INDEX_BITS]
    pages = fences.size
    for number in range(count):
        row = int(wanted[number])
        first, second = keys[row, 0], keys[row, 1]
        low, high = 0, pages
        while low < high:
            middle = (low + high) >> 1
            if fences[middle] < first:
                low = middle + 1
            else:
                high = middle
        # Rows with this first word may begin at the end of the page before.
        page = max(low - 1, 0)
        while page < pages and fences[page] <= first:
            at_page = page_from + page
            if words[at_page * PAGE_WORDS] != _checksum(words, at_page, at_page):
                return -1 - at_page
            head = at_page * PAGE_WORDS
            inside = first - words[head + 1]
            rows = int(np.int64(words[head + 2]))
            origin = (head << 6) + _HEAD_BITS
            low, high = 0, rows
            while low < high:
                middle = (low + high) >> 1
                if _bits(words, origin + middle * row_bits, first_bits) < inside:
                    low = middle + 1
                else:
                    high = middle
            while low < rows:
                at = origin + low * row_bits
                if _bits(words, at, first_bits) != inside:
                    break
                at += first_bits
                if _bits(words, at, 64) == second:
                    if held < links.size:
                        at += 64
                        found[held, 0] = time_base + _bits(words, at, time_bits)
                        at += time_bits
                        log = _bits(words, at, log_bits)
                        at += log_bits
                        found[held, 1] = (log << np.uint64(32)) | _bits(words, at, index_bits)
                        at += index_bits
                        found[held, 2] = _bits(words, at, DIGEST_BITS)
                        links[held] = newest[row]
                        newest[row] = held
                    held += 1
                low += 1
            page += 1
    return held


# ---- sorting and merging -----------------------------------------------------------------------


def sorted_by_hash(rows: Words) -> Longs:
    """Return the order of rows by hash; equal hashes stay in the order they have."""
    count = len(rows)
    bits = max(1, min(22, (count - 1).bit_length()))
    starts = np.zeros((1 << bits) + 1, dtype=np.int64)
    order = np.empty(count, dtype=np.int64)
    if not _order(rows, bits, starts, order):
        # These are no hashes (or a sender has learnt the key): sort them the slow way.
        order = np.lexsort((rows[:, 1], rows[:, 0]))
    return order


_CROWDED: Final = 64


@compiled
def _order(rows: Words, bits: int, starts: Longs, order: Longs) -> bool:
    shift = np.uint64(64 - bits)
    count = order.size
    for row in range(count):
        starts[np.int64(rows[row, 0] >> shift) + 1] += 1
    for bucket in range(starts.size - 1):
        if starts[bucket + 1] > _CROWDED:
            return False
        starts[bucket + 1] += starts[bucket]
    for row in range(count):
        mine = np.int64(rows[row, 0] >> shift)
        order[starts[mine]] = row
        starts[mine] += 1
    # Now each bucket is in arrival order, and neighbours are at most a bucket away from their place.
    for place in range(1, count):
        row = int(order[place])
        first, second = rows[row, 0], rows[row, 1]
        at = place
        while at > 0:
            before = order[at - 1]
            if rows[before, 0] < first or (rows[before, 0] == first and rows[before, 1] <= second):
                break
            order[at] = before
            at -= 1
        order[at] = row
    return True


@compiled
def merge(sources: Words, heads: Longs, ends: Longs, finished: Bytes, out: Words) -> int:
    """Merge sorted stretches of rows into `out` until it is full or a stretch must be refilled.

    `sources[k, heads[k]:ends[k]]` is what is left of stretch k; it must be refilled when it is empty
    and not `finished`. Moves `heads`; returns how many rows were written.
    """
    count = 0
    while count < len(out):
        best = -1
        first = second = np.uint64(0)
        for source in range(heads.size):
            at = heads[source]
            if at == ends[source]:
                if finished[source] == 0:
                    return count
                continue
            other = sources[source, at, 0]
            if best < 0 or other < first or (other == first and sources[source, at, 1] < second):
                best, first, second = source, other, sources[source, at, 1]
        if best < 0:
            return count
        at = heads[best]
        for word in range(ROW_WORDS):
            out[count, word] = sources[best, at, word]
        heads[best] = at + 1
        count += 1
    return count


def warm() -> None:
    """Compile (or load from the cache) everything here, so that no micro-batch waits for it."""
    rows = np.ones((1, ROW_WORDS), dtype=np.uint64)
    sorted_by_hash(rows)
    layout = read_only(layout_of(1, time_min=1, time_max=1, log_max=1, index_max=1), np.int64)
    pages, fences = np.zeros(2 * PAGE_WORDS, dtype=np.uint64), np.zeros(1, dtype=np.uint64)
    filter_add(rows, 0, 1, 1, pages[:PAGE_WORDS], 0)
    pack(rows, 1, True, layout, pages[PAGE_WORDS:], fences, 0)
    seal(pages, 2, 0)
    whole, wanted = read_only(pages, np.uint64), np.zeros(1, dtype=np.int64)
    damaged(whole, 2, 0)
    filter_hits(whole, 0, 1, np.zeros(1, dtype=np.uint8), rows, wanted, np.zeros(1, dtype=np.int64))
    find(
        whole,
        1,
        read_only(fences, np.uint64),
        layout,
        rows,
        wanted,
        1,
        np.zeros((1, 3), dtype=np.uint64),
        np.zeros(1, dtype=np.int64),
        np.full(1, -1, dtype=np.int64),
        0,
    )
    unpack(read_only(pages[PAGE_WORDS:], np.uint64), 1, 1, layout, rows.copy())
    ends, flags = np.ones(1, dtype=np.int64), np.ones(1, dtype=np.uint8)
    merge(rows.reshape(1, 1, ROW_WORDS), np.zeros(1, dtype=np.int64), ends, flags, rows.copy())
