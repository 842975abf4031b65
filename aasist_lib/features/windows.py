"""How a long recording is split into windows."""

# A recording is scored window by window, so that an hour of speech needs no more memory than a sentence and no window
# is much longer than the training crops.
WINDOW_SECONDS = 8.0


def windows(length: int, rate: float) -> list[tuple[int, int]]:
    """(start, end) of each window of a recording of `length` samples or frames, `rate` per second.

    A remainder shorter than half a window joins the window before it: scores of short windows are poor.

    >>> windows(20, 1), windows(12, 1), windows(11, 1), windows(3, 1)
    ([(0, 8), (8, 16), (16, 20)], [(0, 8), (8, 12)], [(0, 11)], [(0, 3)])
    """
    size = round(WINDOW_SECONDS * rate)
    starts = [0, *range(size, length - size // 2 + 1, size)]
    return list(zip(starts, [*starts[1:], length], strict=True))
