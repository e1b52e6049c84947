"""Find pictures of the same photograph: exact copies, and copies that were resized, recompressed or brightened.

Each picture gets a perceptual hash (pHash): the signs of the lowest frequencies of its discrete cosine transform.
Copies differ in few of the 255 bits. Among 13,394 photographs of Imagenette the nearest two that are not copies differ
in 52; copies of half the size in up to 20, at JPEG quality 20 in up to 17, brightened by a fifth in up to 33
(docs/LOG.md). OpenCV computes the hash from the square that `prepare` has in memory. Libraries for it, such as
imagehash, would decode every file a second time.

The pairs are found by multi-index hashing (Norouzi et al. 2012): of the 63 lowest frequencies in four bands, copies
that differ in at most 7 have a band in which they differ in at most one. So only pictures in a few of the 65,536
buckets of each band are compared.
"""

import hashlib

import cv2
import numpy as np

from alexnet.kernels.compile import jit, jit_without_wrapper

MAX_DISTANCE = 32  # bits in which the hashes of two pictures of the same photograph may differ
HASH_WORDS = 4  # of 64 bits
_SIDE = 32  # pixels of the reduced picture
_FREQUENCIES = 16  # of each direction that are part of the hash
_LOW_FREQUENCIES = 8  # of each direction that choose the buckets
_BANDS = 4
_BAND_BITS = 16
_MIN_DEVIATION = 1.0  # in grey levels; the signs of a plainer picture would be chance


def _cosines() -> np.ndarray:
    """Return the (16, 32) matrix of the discrete cosine transform's lowest frequencies."""
    frequency, position = np.arange(_FREQUENCIES)[:, None], np.arange(_SIDE)[None]
    return np.cos(np.pi * frequency * (2 * position + 1) / (2 * _SIDE)).astype(np.float32)


def _bit_order() -> np.ndarray:
    """Return the order of the frequencies in a hash: the lowest first, which take turns in the four bands."""
    low = np.zeros((_FREQUENCIES, _FREQUENCIES), bool)
    low[:_LOW_FREQUENCIES, :_LOW_FREQUENCIES] = True
    lowest, others = np.flatnonzero(low), np.flatnonzero(~low)
    return np.concatenate([*(lowest[band::_BANDS] for band in range(_BANDS)), others])


_COSINES, _BIT_ORDER = _cosines(), _bit_order()


def picture_hashes(pixels: np.ndarray) -> np.ndarray:
    """Return the perceptual hashes of pictures.

    A plain picture, of one colour or nearly, gets a hash of its bytes instead: it equals its exact copies only.

    Args:
        pixels: (N, size, size, 3) uint8.

    Returns:
        (N, 4) uint64; none of them is all zeros.
    """
    if len(pixels) == 0:
        return np.zeros((0, HASH_WORDS), np.uint64)
    small = _reduce(pixels)
    # One small product for each picture. One product for all would start the threads of BLAS, which wait in loops that
    # take more processor time than all other work of `prepare`.
    rows = small @ _COSINES.T  # (N, 32, 16)
    columns = rows.transpose(0, 2, 1) @ _COSINES.T  # (N, 16, 16), the horizontal frequency first
    signs = columns.reshape(len(pixels), -1) > 0
    signs[:, 0] = True  # the mean, which says nothing; so no hash is all zeros
    hashes = np.ascontiguousarray(np.packbits(signs[:, _BIT_ORDER], axis=1))
    for index in np.flatnonzero(small.std((1, 2)) < _MIN_DEVIATION):
        digest = hashlib.blake2b(pixels[index].tobytes(), digest_size=8 * HASH_WORDS).digest()
        hashes[index] = np.frombuffer(digest, np.uint8)
        hashes[index, 0] |= 0x80  # the mean's bit
    return hashes.view(np.uint64)


def _reduce(pixels: np.ndarray) -> np.ndarray:
    """Return pictures as (N, 32, 32) float32 grey values."""
    small = np.empty((len(pixels), _SIDE, _SIDE), np.float32)
    for index, picture in enumerate(pixels):  # one by one: for more pixels at once, OpenCV starts its own threads
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        small[index] = cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    return small


def group_duplicates(hashes: np.ndarray) -> list[np.ndarray]:
    """Find the pictures that show the same photograph.

    A picture belongs to the first earlier one, itself in no other's group, whose hash differs in at most MAX_DISTANCE
    bits. So all pictures of a group are near the first one, and no chain of small differences joins different pictures.

    Args:
        hashes: (N, 4) uint64.

    Returns:
        For each photograph with at least two pictures their indices, in ascending order.
    """
    bands = np.ascontiguousarray(hashes[:, 0]).view(np.uint16).reshape(-1, _BANDS).T  # (4, N)
    order = np.argsort(bands, axis=1, kind="stable")
    starts = np.stack(
        [np.searchsorted(band[o], np.arange((1 << _BAND_BITS) + 1)) for band, o in zip(bands, order, strict=True)]
    )
    firsts = _find_firsts(np.ascontiguousarray(hashes), np.ascontiguousarray(bands), order, starts)
    by_first = np.argsort(firsts, kind="stable")
    groups = np.split(by_first, np.flatnonzero(np.diff(firsts[by_first])) + 1)
    return [group for group in groups if len(group) > 1]


@jit_without_wrapper
def _count_bits(word: np.uint64) -> np.int64:
    """Return the number of ones in a word."""
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@jit_without_wrapper
def _is_near(first: np.ndarray, second: np.ndarray) -> bool:
    """Return whether two hashes (4,) differ in at most MAX_DISTANCE bits."""
    distance = np.int64(0)
    for word in range(HASH_WORDS):
        distance += _count_bits(first[word] ^ second[word])
        if distance > MAX_DISTANCE:
            return False
    return True


@jit
def _find_firsts(hashes: np.ndarray, bands: np.ndarray, order: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return for each picture the index of the first picture of its group.

    Args:
        hashes: (N, 4) uint64.
        bands: (4, N) uint16, the part of each hash that chooses the bucket.
        order: (4, N) int64, the pictures sorted by bucket.
        starts: (4, 65537) int64, where each bucket starts in `order`.
    """
    count = hashes.shape[0]
    firsts = np.full(count, -1, np.int64)
    for i in range(count):
        if firsts[i] >= 0:
            continue
        firsts[i] = i
        for band in range(_BANDS):
            for flip in range(_BAND_BITS + 1):  # the same bucket, and those with one other bit
                bucket = np.int64(bands[band, i])
                if flip < _BAND_BITS:
                    bucket ^= 1 << flip
                for place in range(starts[band, bucket], starts[band, bucket + 1]):
                    j = order[band, place]
                    if j > i and firsts[j] < 0 and _is_near(hashes[i], hashes[j]):
                        firsts[j] = i
    return firsts
