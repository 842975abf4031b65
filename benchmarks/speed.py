"""How fast: extraction, scoring, metrics, commands, and what a cloud function costs."""

import base64
import os
import re
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import numpy as np

from benchmarks import service
from benchmarks.measure import BIN, ROOT, apart, command, in_turn, memory, seconds, speech

SECONDS = 4  # of a recording that is scored


def extraction(folder="data/audio", files=240, rounds=5):
    """Features against a loop over librosa, and whether they are the same.

    The loop runs as in a script that sets nothing, with a thread for every core, and held to one thread, which serves
    librosa well. This project has one thread in each of its processes. Every side is a process of its own, since
    threads that wait in one would be charged to the other.
    """
    sides = {"librosa loop": (False, None), "librosa loop, 1 thread": (False, 1), "this project": (True, 1)}
    runs = {name: [] for name in sides}
    for _ in range(rounds):
        for name, (ours, threads) in sides.items():
            runs[name].append(apart(extracted, str(ROOT / folder), files, ours, threads=threads))
    for name, found in runs.items():
        for what in ("features", "features, files decoded"):
            yield f"{name}: {what}", float(np.median([run[what] for run in found])), "recordings a second and core"
    yield "largest difference from librosa", runs["this project"][0]["difference"], "dB"


def extracted(folder, files, ours):
    """Recordings a second of one side, with and without decoding."""
    import librosa
    import torch

    from aasist_lib import audio, features, params
    from aasist_lib.base.jobs import keep_memory

    torch.set_num_threads(1)
    keep_memory()
    settings = params.read("features")
    rate, front_end = settings["sample_rate"], features.build(settings).eval()
    options = {name: settings[name] for name in ("n_mfcc", "n_fft", "hop_length", "n_mels")}
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in audio.ENDINGS)
    paths = [path for path in paths[:: -(-len(paths) // files) or 1] if audio.info(path) > 0.3]

    def by_librosa(waveform):
        mfcc = librosa.feature.mfcc(y=waveform, sr=rate, **options)
        return np.concatenate([mfcc, *(librosa.feature.delta(mfcc, order=n + 1) for n in range(settings["deltas"]))]).T

    def by_project(waveform):
        with torch.inference_mode():
            return front_end(torch.from_numpy(waveform)[None])[0].T.numpy()

    decode = (lambda path: audio.read(path, rate)) if ours else (lambda path: librosa.load(path, sr=rate)[0])
    extract = by_project if ours else by_librosa
    waveforms = [audio.read(path, rate) for path in paths]
    times = in_turn({
        "features": lambda: [extract(wave) for wave in waveforms],
        "features, files decoded": lambda: [extract(decode(path)) for path in paths],
    }, 1, time.process_time)  # fmt: skip
    difference = max(float(np.abs(by_librosa(wave) - by_project(wave)).max()) for wave in waveforms[:40])
    return {name: len(paths) / found[0] for name, found in times.items()} | {"difference": difference}


def pins(rounds=5, steps=10):
    """A training step with the kernels of aasist_lib/pins.env and without, on one thread of processor time."""
    times = {True: [], False: []}
    for _ in range(rounds):  # libraries choose kernels once in a process
        for pinned, found in times.items():
            found.append(apart(pinned_step, pinned, steps))
    yield "training step, the processor's own kernels", 1e3 * float(np.median(times[False])), "ms"
    yield "training step, pinned", 1e3 * float(np.median(times[True])), "ms"
    yield "ratio", float(np.median(np.divide(times[True], times[False]))), ""


def pinned_step(pinned, steps):
    """Seconds of a training step."""
    import torch
    from torch.nn import functional

    torch.set_num_threads(1)
    if not pinned:  # each library chooses now, before the package tells it what to choose
        kernel, x = torch.rand(4, 4, 3, 3, requires_grad=True), torch.rand(1, 4, 64, 64, requires_grad=True)
        y = functional.conv2d(x, kernel).flatten() @ torch.rand(4 * 62 * 62)
        (y + torch.fft.rfft(x).abs().exp().log().sum() + x.softmax(3).sum()).backward()
    from aasist_lib import features, models, params

    settings = params.load()
    front_end, train = features.build(settings["features"]), settings["train"]
    network = models.build(
        **settings["model"], coefficients=front_end.coefficients, channels=front_end.channels
    ).to(memory_format=torch.channels_last)  # fmt: skip
    optimizer = torch.optim.AdamW(network.parameters(), lr=train["lr"], fused=True)
    waveforms = torch.randn(train["batch_size"], int(train["crop_seconds"] * front_end.sample_rate))
    targets = torch.arange(train["batch_size"]) % 2.0

    def step():
        with torch.no_grad():
            maps = front_end(waveforms)
        optimizer.zero_grad()
        functional.binary_cross_entropy_with_logits(network(maps), targets).backward()
        optimizer.step()

    return float(np.median(in_turn({"step": step}, steps, time.process_time)["step"]))


def scoring(rounds=40, minutes=60, detector="models/detector"):
    """4 s on one core beside AASIST at its published size (random weights take as long), and an hour in one file."""
    import soundfile
    import torch

    from aasist_lib import Detector, models

    with tempfile.TemporaryDirectory() as folder:
        minute = np.resize(speech(), 60 * 16000)
        with soundfile.SoundFile(f"{folder}/long.flac", "w", 16000, 1) as file:
            for _ in range(minutes):
                file.write(minute)
        taken, megabytes = apart(scored, f"{folder}/long.flac", str(ROOT / detector))
    torch.set_num_threads(1)
    loaded, aasist = Detector.load(ROOT / detector), models.build("aasist", coefficients=1, channels=1).eval()
    waveform = speech()[: SECONDS * 16000]
    with torch.inference_mode():
        times = in_turn({
            "this project": lambda: loaded.calibrated(loaded.backend(waveform)),
            "AASIST": lambda: aasist(torch.from_numpy(waveform)[None, None]).item(),
        }, rounds)  # fmt: skip
    for name, found in times.items():
        yield f"{SECONDS} s of speech on one core, {name}", 1e3 * float(np.median(found)), "ms"
    yield f"{minutes} minutes in one file", taken, "s"
    yield f"{minutes} minutes in one file, memory at most", megabytes, "MB"


def scored(path, detector):
    """Seconds and MB of `aasist score`."""
    from aasist_lib import Detector

    start = time.perf_counter()
    Detector.load(detector).score([path])
    return time.perf_counter() - start, memory()["VmHWM"]


def exported(rounds=30, clips=400, detector="models/detector", corpus="data"):
    """ONNX in float32 and in int8 beside torch: speed of one thread, and agreement on clips of eval."""
    import torch

    from aasist_lib import Detector, corpora, metrics, params
    from aasist_lib.serving import export

    torch.set_num_threads(1)
    corpus = ROOT / corpus
    table, _ = corpora.from_settings(corpus, params.read("corpus", ROOT / "params.yaml"))
    sides = {"torch": Detector.load(ROOT / detector)}
    with tempfile.TemporaryDirectory() as folder:
        for name, drawn in (("float32", None), ("int8", export.dev_clips(table, corpus))):
            path = Path(folder) / f"{name}.onnx"
            export.export(sides["torch"], path, clips=drawn)
            sides[name] = Detector.load(path)
            yield f"{name}.onnx", path.stat().st_size / 1e6, "MB"
    waveform = speech()[: SECONDS * 16000]
    works = {
        name: lambda side=side: [side.calibrated(side.backend(waveform)) for _ in range(10)]
        for name, side in sides.items()
    }
    for name, found in in_turn(works, rounds, time.process_time).items():
        yield f"{SECONDS} s to an LLR, {name}, median", 100 * float(np.median(found)), "ms"
    table = table[table["split"] == "eval"]
    rows = [rows.iloc[np.unique(np.linspace(0, len(rows) - 1, clips // 2).astype(int))]
            for _, rows in table.groupby("label")]  # fmt: skip
    paths = {label: [corpus / path for path in part["path"]] for part in rows for label in part["label"].unique()}
    llr = {name: {label: np.array([side.score_one(path).llr for path in some]) for label, some in paths.items()}
           for name, side in sides.items()}  # fmt: skip
    expected, threshold = np.concatenate(list(llr["torch"].values())), sides["torch"].threshold
    for name, found in llr.items():
        every = np.concatenate(list(found.values()))
        yield f"{clips} clips of eval, {name}: EER", 100 * metrics.eer(found["bonafide"], found["spoof"]).value, "%"
        yield f"... largest difference of an LLR, {name}", float(np.abs(every - expected).max()), "nats"
        yield f"... other decisions, {name}", int(((every < threshold) != (expected < threshold)).sum()), "clips"


def metrics(trials=680_774, rounds=3):
    """`aasist metrics` as typed, without the bootstrap, for the trials of ASVspoof 5, beside plain Python.

    The command starts, reads, checks, and gives every measure and the tables by attack and codec; plain Python reads
    both files into dictionaries and gives the equal error rate by a sort and one pass.
    """
    rng = np.random.default_rng(0)
    real = rng.random(trials) < 0.2
    scores = rng.normal(np.where(real, 2, -1), 1.5)
    speakers, attacks, codecs = (rng.integers(n, size=trials) for n in (370, 16, 12))
    with tempfile.TemporaryDirectory() as folder:
        given, keys = f"{folder}/scores.tsv", f"{folder}/keys.tsv"
        with open(given, "w") as file:
            file.write("filename\tcm-score\n")
            file.writelines(f"E_{i:010d}\t{score:.8f}\n" for i, score in enumerate(scores))
        with open(keys, "w") as file:
            for i in rng.permutation(trials):
                codec = f"C{codecs[i]:02d} 1 E_{i:010d}" if codecs[i] else "- - -"
                attack = "- bonafide bonafide" if real[i] else f"AC1 A{17 + attacks[i]} spoof"
                file.write(f"E_{speakers[i]:04d} E_{i:010d} F {codec} {attack} -\n")
        ours = [BIN / "aasist", "metrics", given, keys, "--format", "asvspoof5", "--bootstrap", "0"]
        plain = [sys.executable, "-c", "import sys; from benchmarks.speed import plain_eer; plain_eer(*sys.argv[1:])"]
        times = in_turn({
            "aasist metrics": lambda: command(*ours), "plain Python, EER alone": lambda: command(*plain, given, keys)
        }, rounds)  # fmt: skip
    for name, found in times.items():
        yield f"{trials:,} trials, {name}", float(np.median(found)), "s"


def plain_eer(scores, keys):
    """The equal error rate as an evaluation script computes it."""
    with open(keys) as file:
        labels = {fields[1]: fields[8] for fields in map(str.split, file)}
    with open(scores) as file:
        next(file)
        rows = (line.rstrip().split("\t") for line in file)
        trials = sorted((float(score), labels[name] == "bonafide") for name, score in rows)
    real = sum(is_real for _, is_real in trials)
    below, best = [0, 0], (2.0, 0.0)
    for _, is_real in trials:
        below[is_real] += 1
        rejected, accepted = below[1] / real, 1 - below[0] / (len(trials) - real)
        best = min(best, (abs(rejected - accepted), (rejected + accepted) / 2))
    print(best[1])


def startup(rounds=5, detector="models/detector"):
    """Seconds of whole commands, the least of several: what else the machine does can only make them longer."""
    clip = sorted((ROOT / "tests/speech").glob("*.flac"))[0]
    commands = {
        "aasist --help": [BIN / "aasist", "--help"],
        "import aasist_lib; aasist_lib.Detector": [sys.executable, "-c", "import aasist_lib; aasist_lib.Detector"],
        "aasist score, one clip": [BIN / "aasist", "score", clip, "--detector", ROOT / detector],
        "dvc repro --dry": [BIN / "dvc", "repro", "--dry"],
    }
    for name, found in in_turn({name: lambda x=x: command(*x) for name, x in commands.items()}, rounds).items():
        yield name, min(found), "s"


def functions(requests=30, gb=1.0, price_request=0.20, price_gb_second=0.0000166667, detector="models/detector"):
    """The Lambda handler on 4 s of speech: size, cold and warm answers, and dollars for a million of them.

    Cold is from the start of the interpreter to the first answer. Size is what pip unpacks for the extras serve and
    functions. Prices are list prices on x86 in US East as third parties quote them, for a million requests and for a GB
    second (November 2026); give yours.
    """
    with tempfile.TemporaryDirectory() as folder:
        onnx = Path(folder) / "detector.onnx"
        command(BIN / "aasist", "export", "--detector", ROOT / detector, "--output", onnx)
        os.environ["AASIST_DETECTOR"] = str(onnx)
        start = time.time()
        first, taken = apart(answered, requests, threads=1)
        yield "package and detector", installed() + onnx.stat().st_size / 1e6, "MB"
    warm = float(np.median(taken))
    yield "cold, to the first answer", first - start, "s"
    yield f"warm, {SECONDS} s of speech", 1e3 * warm, "ms"
    yield f"a million requests at {gb:g} GB", 1e6 * warm * gb, "GB s"
    yield "the same", price_request + 1e6 * warm * gb * price_gb_second, "dollars"


def answered(requests):
    """When the first answer was there, and the seconds of each after it."""
    from aasist_lib.serving import functions as handlers

    body, kind = service.form(("voice.flac", service.encoded(speech()[: SECONDS * 16000], format="FLAC")))
    event = {
        "version": "2.0", "routeKey": "$default", "rawPath": "/v1/score", "rawQueryString": "",
        "headers": {"host": "example.org", "content-type": kind, "content-length": str(len(body))},
        "requestContext": {
            "http": {"method": "POST", "path": "/v1/score", "sourceIp": "192.0.2.1"}, "stage": "$default"
        },
        "body": base64.b64encode(body).decode(), "isBase64Encoded": True,
    }  # fmt: skip

    def ask():
        answer = handlers.aws_lambda(event, None)
        if answer["statusCode"] != 200:
            sys.exit(answer["body"])

    ask()
    return time.time(), [seconds(ask) for _ in range(requests)]


def installed():
    """MB of all that `aasist[serve,functions]` needs."""
    waiting, seen, total = [("aasist", {"serve", "functions"})], {"aasist"}, 0
    while waiting:
        name, extras = waiting.pop()
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # for another system or Python
        if name != "aasist":
            total += sum(file.locate().stat().st_size for file in found.files or () if file.locate().is_file())
        for line in found.requires or ():
            needed, extra = re.match(r"[\w.-]+", line)[0].lower(), re.search(r"extra\s*==\s*['\"]([^'\"]+)", line)
            if needed not in seen and (extra is None or extra[1] in extras):
                seen.add(needed)
                waiting.append((needed, set()))
    return total / 1e6
