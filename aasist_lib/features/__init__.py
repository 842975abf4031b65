"""Front-ends: torch modules that turn waveforms into feature maps.

Shapes: waveforms are (batch, samples), float32, at the front-end's own sampling rate; feature maps are
(batch, coefficients, frames). Utterances of different lengths share a batch by padding at the end: `lengths` says
how many samples each one has, and every utterance then gets the values that it has alone.

Inside, and in what every module calls `packed`, nothing is padded: the frames of all utterances follow one another,
(frames, coefficients), with a list of how many each one has. That is also how the store keeps them.
"""

from __future__ import annotations

import difflib
import math

import torch
from torch import Tensor, nn

from aasist_lib.errors import UserError

AMIN = 1e-10  # power below which a mel band counts as silent (librosa.power_to_db)
TOP_DB = 80.0  # an utterance's bands are cut off this far below its loudest one
MEL_BLOCK = 16  # filters that share a matrix product, see MFCC
CACHE_FLOATS = 2**18  # of windowed signal at a time: what a core's cache holds beside the spectra


def mel_filters(sample_rate: int, n_fft: int, n_mels: int) -> Tensor:
    """Triangular filters on Slaney's mel scale, each of unit area.

    Linear below 1 kHz (66.7 Hz a mel), logarithmic above (a factor of 6.4 in 27 mels): M. Slaney, Auditory
    Toolbox, 1998, which is also what `librosa.filters.mel` computes by default.

    Parameters
    ----------
    sample_rate : int
        In Hz; the filters reach from 0 to half of it.
    n_fft : int
        Samples of a frame.
    n_mels : int
        Number of filters.

    Returns
    -------
    Tensor
        (n_fft // 2 + 1, n_mels), float32.

    Examples
    --------
    >>> mel_filters(16000, 512, 64).shape
    torch.Size([257, 64])
    """
    hz_per_mel, knee = 200.0 / 3, 1000.0
    log_step = math.log(6.4) / 27
    half = sample_rate / 2
    top = half / hz_per_mel if half < knee else knee / hz_per_mel + math.log(half / knee) / log_step
    mels = torch.linspace(0, top, n_mels + 2, dtype=torch.float64)
    above = knee * torch.exp(log_step * (mels - knee / hz_per_mel))
    edges = torch.where(mels < knee / hz_per_mel, mels * hz_per_mel, above)
    bins = torch.arange(n_fft // 2 + 1, dtype=torch.float64)[:, None] * sample_rate / n_fft
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return (torch.minimum(rising, falling).clamp(min=0) * 2 / (edges[2:] - edges[:-2])).float()


def dct_matrix(n_in: int, n_out: int) -> Tensor:
    """The first `n_out` rows of the orthonormal DCT-II of `n_in` points, as columns: (n_in, n_out), float64.

    Examples
    --------
    >>> basis = dct_matrix(8, 8)
    >>> bool(torch.allclose(basis.T @ basis, torch.eye(8, dtype=torch.float64)))
    True
    """
    points = torch.arange(n_in, dtype=torch.float64)[:, None] + 0.5
    basis = torch.cos(math.pi / n_in * points * torch.arange(n_out, dtype=torch.float64))
    basis *= math.sqrt(2 / n_in)
    basis[:, 0] /= math.sqrt(2)
    return basis


class MFCC(nn.Module):
    """Mel-frequency cepstral coefficients, the values of `librosa.feature.mfcc`, in batches and differentiable.

    Hann window, frames centred on multiples of `hop_length` with zeros beyond both ends, power spectrum,
    Slaney mel filters, decibels cut off 80 below the utterance's loudest band, orthonormal DCT-II.

    Parameters
    ----------
    sample_rate : int
        Of the waveforms, in Hz.
    n_mfcc, n_mels : int
        Coefficients kept, of so many mel bands.
    n_fft, hop_length : int
        Samples of a frame and between two frames.

    Raises
    ------
    UserError
        If a setting is not a positive whole number, or `n_mfcc` exceeds `n_mels`.

    Examples
    --------
    >>> mfcc = MFCC(sample_rate=16000)
    >>> mfcc(torch.zeros(2, 16000)).shape
    torch.Size([2, 20, 101])
    >>> a, b = torch.sin(torch.arange(8000) / 9), torch.sin(torch.arange(5000) / 7)
    >>> batch = nn.utils.rnn.pad_sequence([a, b], batch_first=True)
    >>> together = mfcc(batch, torch.tensor([8000, 5000]))
    >>> bool(torch.allclose(together[1, :, : mfcc.frames(5000)], mfcc(b[None])[0], atol=1e-3))
    True
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        n_mfcc: int = 20,
        n_fft: int = 512,
        hop_length: int = 160,
        n_mels: int = 64,
    ):
        super().__init__()
        settings = dict(sample_rate=sample_rate, n_mfcc=n_mfcc, n_fft=n_fft, hop_length=hop_length, n_mels=n_mels)
        for name, value in settings.items():
            if not isinstance(value, int) or value < 1:
                raise UserError(f"features.{name}: {value!r} is not a positive whole number")
        if n_mfcc > n_mels:
            raise UserError(f"features.n_mfcc: {n_mfcc} coefficients cannot come from n_mels: {n_mels} bands")
        self.sample_rate, self.n_mfcc, self.n_fft, self.hop_length = sample_rate, n_mfcc, n_fft, hop_length
        self.coefficients = n_mfcc
        self.register_buffer("window", torch.hann_window(n_fft, dtype=torch.float64).float(), persistent=False)
        # Decibels are 10 log10: the factor stands in the last matrix.
        self.register_buffer("dct", (10 * dct_matrix(n_mels, n_mfcc)).float(), persistent=False)
        # Nine tenths of the filter bank are zeros. Neighbouring filters share their few bins, so that products
        # of 16 filters with just the bins they touch take half the time of the one large product.
        self._blocks = []
        for first in range(0, n_mels, MEL_BLOCK):
            filters = mel_filters(sample_rate, n_fft, n_mels)[:, first : first + MEL_BLOCK]
            touched = filters.any(1).nonzero().flatten().tolist() or [0]
            bins, name = slice(touched[0], touched[-1] + 1), f"mel_{first}"
            self.register_buffer(name, filters[bins].contiguous(), persistent=False)
            self._blocks.append((name, bins))

    def frames(self, samples):
        """Frames of an utterance of so many samples (an int or a tensor): 1 + samples // hop_length.

        (For the rare odd n_fft, what librosa gives: one sample less.)
        """
        return 1 + (samples - self.n_fft % 2) // self.hop_length

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(batch, samples) to (batch, n_mfcc, frames); frames past an utterance's own are 0.

        Parameters
        ----------
        waveforms : Tensor
            (batch, samples), floating point.
        lengths : Tensor, optional
            (batch,), samples of each utterance, at least 1; without it all have the full length.
        """
        return unpack(*self.packed(pack(waveforms, lengths)), self.frames(waveforms.shape[1]))

    def packed(self, waveforms: list[Tensor]) -> tuple[Tensor, list[int]]:
        """Waveforms, (samples,) each, to (frames of all, n_mfcc), and how many frames each one has."""
        counts = [self.frames(len(waveform)) for waveform in waveforms]
        tail = -(-self.n_fft // self.hop_length) - 1  # windows that reach over the end of an utterance
        spans = [count + tail for count in counts]
        mel = self._mel(self._signal(waveforms, spans))
        parts = zip(mel.split(spans), counts, strict=True)
        loudest = torch.stack([part[:count].amax() for part, count in parts])
        floor = (loudest * 10 ** (-TOP_DB / 10)).clamp(min=AMIN)
        log_mel = torch.maximum(mel, repeat(floor, spans)[:, None]).log10()
        mfcc = log_mel @ self.dct
        # The first coefficient is a plain sum. Large as it is, a matrix product, which adds up its 64 numbers
        # one by one, would lose a digit of it; `sum` adds in pairs.
        mfcc[:, 0] = log_mel.sum(1) * self.dct[0, 0]
        own = torch.arange(sum(counts), device=mfcc.device)
        return mfcc.index_select(0, own + repeat(tail * torch.arange(len(counts), device=own.device), counts)), counts

    def _signal(self, waveforms: list[Tensor], spans: list[int]) -> Tensor:
        """All utterances in one signal, each at a multiple of the hop with zeros around it.

        A single strided view then holds all frames, to be worked through in even pieces. The three frames or so
        that lie between two utterances are computed for nothing.
        """
        half = self.n_fft // 2
        zeros = waveforms[0].new_zeros(self.n_fft + self.hop_length)
        parts = [zeros[:half]]
        for waveform, span in zip(waveforms, spans, strict=True):
            used = waveform[: span * self.hop_length - half]  # the last window may not reach the last samples
            parts += [used, zeros[: span * self.hop_length - len(used)]]
        return torch.cat([*parts, zeros[: self.n_fft - half]])

    def _mel(self, signal: Tensor) -> Tensor:
        """(samples,) to power in mel bands, (frames, n_mels)."""
        frames = signal.unfold(0, self.n_fft, self.hop_length)[:-1]
        # Gradients through many slices would each cost a signal's worth of zeros: then all at once.
        piece = len(frames) if signal.requires_grad else max(1, CACHE_FLOATS // self.n_fft)
        mel = []
        for start in range(0, len(frames), piece):
            spectrum = torch.view_as_real(torch.fft.rfft(frames[start : start + piece] * self.window))
            squares = spectrum.square() if spectrum.requires_grad else spectrum.square_()
            power = squares[..., 0] + squares[..., 1]  # several times quicker than abs(), which takes a root
            mel.append(torch.cat([power[:, bins] @ getattr(self, name) for name, bins in self._blocks], 1))
        return torch.cat(mel)


class Deltas(nn.Module):
    """Slopes of coefficients over time, the values of `librosa.feature.delta(width=9, order=order)`.

    A polynomial of degree `order` is fitted to nine frames around each frame (A. Savitzky and M. Golay,
    Analytical Chemistry 36, 1964); its derivative of that order is constant over the nine, so that the four
    frames at either end, which the first and the last nine decide, repeat their neighbour's value.

    Parameters
    ----------
    order : int
        1 for slopes, 2 for their slopes.

    Examples
    --------
    >>> Deltas(1)(3 * torch.arange(12.0)[None, None]).round(decimals=4).unique()
    tensor([3.])
    """

    WIDTH = 9

    def __init__(self, order: int = 1):
        super().__init__()
        offsets = torch.arange(self.WIDTH, dtype=torch.float64) - self.WIDTH // 2
        fit = torch.linalg.pinv(offsets[:, None] ** torch.arange(order + 1))
        self.order = order
        self.taps = (math.factorial(order) * fit[order]).tolist()

    def forward(self, coefficients: Tensor, frames: Tensor | None = None) -> Tensor:
        """(batch, coefficients, frames) to the same shape; frames past an utterance's own are 0.

        Parameters
        ----------
        coefficients : Tensor
            (batch, coefficients, frames).
        frames : Tensor, optional
            (batch,), frames of each utterance; without it all have the full number.

        Raises
        ------
        UserError
            If an utterance has fewer than nine frames, where the fit is not defined.
        """
        parts = pack(coefficients.transpose(1, 2), frames)
        counts = [len(part) for part in parts]
        return unpack(self.packed(torch.cat(parts), counts), counts, coefficients.shape[2])

    def packed(self, x: Tensor, counts: list[int]) -> Tensor:
        """(frames of all, coefficients) to the same shape."""
        if min(counts) < self.WIDTH:
            raise UserError(
                f"an utterance of {min(counts)} frames has no deltas: they take {self.WIDTH} frames; "
                "leave out recordings so short (extract.min_seconds), or set features.deltas: 0"
            )
        return self.inner(x).index_select(0, self.nearest(counts, x.device))

    def inner(self, x: Tensor) -> Tensor:
        """Slopes over each nine frames that follow one another, some of them in two utterances."""
        count = len(x) - self.WIDTH + 1
        slopes = x[:count] * self.taps[0]
        for offset, tap in enumerate(self.taps[1:], 1):
            slopes.add_(x[offset : offset + count], alpha=tap)
        return slopes

    @classmethod
    def nearest(cls, counts: list[int], device) -> Tensor:
        """For each frame, which nine of `inner` are those of its own utterance nearest around it."""
        counted, half = torch.tensor(counts, device=device), cls.WIDTH // 2
        ends = counted.cumsum(0)
        first = torch.arange(sum(counts), device=device) - half
        return first.maximum(repeat(ends - counted, counts)).minimum(repeat(ends - cls.WIDTH, counts))


def pack(padded: Tensor, lengths: Tensor | None) -> list[Tensor]:
    """The utterances of a batch without their padding: (batch, longest, ...) to a list of (length, ...)."""
    if lengths is None:
        return list(padded)
    return [row[:length] for row, length in zip(padded, lengths.tolist(), strict=True)]


def repeat(values: Tensor, counts: list[int]) -> Tensor:
    """(utterances,) to (frames of all,): the value of its utterance for each frame."""
    return values.repeat_interleave(torch.tensor(counts, device=values.device), output_size=sum(counts))


def unpack(packed: Tensor, counts: list[int], longest: int) -> Tensor:
    """(frames of all, coefficients) to (batch, coefficients, longest), zeros past an utterance's own frames."""
    padded = nn.utils.rnn.pad_sequence(packed.split(counts), batch_first=True)
    return nn.functional.pad(padded, (0, 0, 0, longest - max(counts))).transpose(1, 2)


class FrontEnd(nn.Module):
    """A transform and its deltas: what params.yaml calls `features`. Made by `build`.

    Attributes
    ----------
    coefficients : int
        Rows of the feature map: those of the transform, then their slopes, then the slopes' slopes.
    channels : int
        1 + deltas: the map also reads as (channels, coefficients // channels, frames).
    sample_rate, hop_length : int
        In Hz, and in samples from one frame to the next.
    min_samples : int
        The shortest utterance that it takes.
    """

    def __init__(self, transform: nn.Module, deltas: int):
        super().__init__()
        self.transform = transform
        self.deltas = nn.ModuleList(Deltas(order) for order in range(1, deltas + 1))
        self.channels = deltas + 1
        self.coefficients = transform.coefficients * self.channels
        self.sample_rate, self.hop_length = transform.sample_rate, transform.hop_length
        self.frames = transform.frames
        self.min_samples = (Deltas.WIDTH - 1) * self.hop_length + transform.n_fft % 2 if deltas else 1

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(batch, samples) to (batch, coefficients, frames); frames past an utterance's own are 0."""
        return unpack(*self.packed(pack(waveforms, lengths)), self.frames(waveforms.shape[1]))

    def packed(self, waveforms: list[Tensor]) -> tuple[Tensor, list[int]]:
        """Waveforms, (samples,) each, to (frames of all, coefficients), and how many frames each one has."""
        static, counts = self.transform.packed(waveforms)
        return torch.cat([static, *(deltas.packed(static, counts) for deltas in self.deltas)], 1), counts


KINDS = {"mfcc": MFCC}


def build(features: dict) -> FrontEnd:
    """The front-end that the section `features` of params.yaml describes.

    Parameters
    ----------
    features : dict
        `kind`, `deltas` (0, 1 or 2), and the settings of that kind's class.

    Raises
    ------
    UserError
        If the kind or a setting is unknown or out of range.

    Examples
    --------
    >>> front_end = build({"kind": "mfcc", "sample_rate": 16000, "n_mfcc": 20, "deltas": 2})
    >>> front_end.coefficients, front_end.channels, front_end(torch.zeros(1, 16000)).shape
    (60, 3, torch.Size([1, 60, 101]))
    >>> build({"kind": "mfc"})
    Traceback (most recent call last):
    ...
    aasist_lib.errors.UserError: features.kind: there is no 'mfc'; did you mean 'mfcc'? (known: mfcc)
    """
    settings = dict(features)
    kind, deltas = settings.pop("kind", "mfcc"), settings.pop("deltas", 0)
    if kind not in KINDS:
        near = difflib.get_close_matches(str(kind), KINDS, 1, 0)[0]
        raise UserError(f"features.kind: there is no {kind!r}; did you mean {near!r}? (known: {', '.join(KINDS)})")
    if deltas not in (0, 1, 2):
        raise UserError(f"features.deltas: {deltas!r} is not 0, 1 or 2")
    try:
        return FrontEnd(KINDS[kind](**settings), deltas)
    except TypeError as error:
        raise UserError(f"features: {error}".replace(f"{KINDS[kind].__name__}.__init__() ", "")) from None
