"""Wavelet packet energies per frame."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from aasist_lib.base import files
from aasist_lib.base.errors import UserError
from aasist_lib.features.bands import Bands, in_pieces


class WaveletPackets(Bands):
    """Energies of the 2^level wavelet packet nodes in decibels, ordered by frequency.

    A band's energy is the sum of its n_fft / 2^level squared coefficients (R. Coifman and M. Wickerhauser, IEEE
    Transactions on Information Theory 38, 1992). Frames are Hann-windowed and extended periodically, so that with an
    orthogonal wavelet the energies add up to that of the frame.

    Parameters
    ----------
    sample_rate, n_fft, hop_length : as `MFCC`; `n_fft` is a multiple of 2^level
    wavelet : a discrete wavelet of PyWavelets: sym8, db4, coif3, ...
    level : number of splits

    Examples
    --------
    >>> WaveletPackets(level=4)(torch.zeros(2, 16000)).shape
    torch.Size([2, 16, 101])
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        n_fft: int = 512,
        hop_length: int = 160,
        wavelet: str = "sym8",
        level: int = 5,
    ):
        if n_fft % 2**level:
            raise UserError(
                f"features.n_fft: {n_fft} is not divisible by 2^level = {2**level}: halves must come out even"
            )
        super().__init__(sample_rate, n_fft, hop_length, 2**level)
        window = torch.hann_window(n_fft, dtype=torch.float64)[:, None]
        self.register_buffer("matrix", (window * packet_matrix(n_fft, wavelet, level)).float(), persistent=False)

    def power(self, signal: Tensor) -> Tensor:
        return in_pieces(self._energies, signal.unfold(-1, self.n_fft, self.hop_length))

    def _energies(self, frames: Tensor) -> Tensor:
        return (frames @ self.matrix).square().unflatten(-1, (self.coefficients, -1)).sum(-1)


def packet_matrix(size: int, wavelet: str, level: int) -> Tensor:
    """The packet transform as a matrix, (size, size), float64: one column per coefficient, nodes by frequency."""
    import pywt  # slow to import, and needed here alone

    known = pywt.wavelist(kind="discrete")
    if wavelet not in known:
        raise UserError(f"features.wavelet: there is no {wavelet!r}; {files.nearest(wavelet, known)}")
    packets = pywt.WaveletPacket(np.eye(size), wavelet, "periodization", level, axis=-1)
    return torch.from_numpy(np.concatenate([node.data for node in packets.get_level(level, "freq")], 1))
