"""aasist_lib.corpus

| what | test |
|---|---|
| sources.yaml: packages pinned and licensed, every speaker in one split, sizes as promised | test_sources_* |
| related systems are on the same side | test_related_systems |
| copies are of an equal share of everybody, and go on where the kind before them stopped | test_copies_* |
| people of every chain in train; chains of eval are known; narrow is the telephone; train draws | test_chains |
| profiles: small is half of default; an unknown one is refused | test_profile* |
| recordings: patterns, those taken away, the archive of the queen | test_recordings, test_queen |
| treat: rate, band, level, edges, length, floor; same bytes again; too short is refused | test_treat* |
| cut: long recordings are parted at quiet moments, and nothing is lost | test_cut |
| through: every chain gives the same speech back, changed | test_through |
| texts: no sentence in two splits; nothing that stops a synthesiser | test_texts* |
| fetch: a wrong hash, no apt, no network: one line each, with a way out; nothing runs unchecked | test_fetch_* |
| archives: what lies outside the folder, and links, are refused | test_fetch_unpacks_nothing_outside |
| networks are rewritten for every processor, and give what they gave | test_portable |
| apt runs nobody else's commands and writes in our folder alone | test_apt_keeps_to_itself |
| an attack of dev and eval alone, a killed synthesiser or worker, too little or few copies: refused | test_refused_* |
| one batch of each attack goes first; earlier builds of the profile are removed | test_order, test_build |
| progress counts recordings, names what is at hand, and leaves out what was not to be had | test_progress |
| the whole build: killed, it leaves no process; again, it goes on; with one worker and two the same | test_build |
| every synthesiser speaks, the same bytes twice | test_synthesisers |
"""

import io
import json
import os
import re
import shutil
import signal as signals
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from scipy import signal

from aasist_lib.base.errors import UserError
from aasist_lib.base.progress import progress
from aasist_lib.base.workers import in_processes
from aasist_lib.corpus import build, fetch, humans, treat

ROOT = Path(__file__).parents[1]
SOURCES = build.read_sources("default")


def test_sources_are_pinned():
    for name, package in SOURCES["packages"].items():
        assert re.fullmatch(r"[0-9a-f]{64}", package["sha256"]), name
        assert package["registry"] in {"debian", "pypi"} and package["version"] and package["licence"], name


def test_sources_keep_speakers_apart():
    splits = {}
    for human in SOURCES["humans"].values():
        splits.setdefault(human["speaker"], set()).add(human["split"])
    for attack, entry in SOURCES["attacks"].items():
        for split, voices in entry.get("voices", {}).items():
            for voice in voices:
                name = f"{attack}-{voice.partition('/')[2]}" if entry["speaker"] == attack else entry["speaker"]
                splits.setdefault(name, set()).add("eval" if split == "narrow" else split)
    assert [speaker for speaker, found in splits.items() if len(found) > 1] == []
    assert splits["nsh"] == {"train"}  # the man and the voice cut from his recordings


def test_sources_are_as_large_as_promised():
    people = [human for human in SOURCES["humans"].values() if human["split"] != "narrow"]
    attacks = SOURCES["attacks"].values()
    wide = [{split: n for split, n in attack["utterances"].items() if split != "narrow"} for attack in attacks]
    assert sum(human["utterances"] for human in people) >= 6000
    assert sum(sum(counts.values()) for counts in wide) >= 9000 and sum(map(bool, wide)) >= 14
    assert len({human["speaker"] for human in people}) >= 18 and len({human["language"] for human in people}) >= 9
    evaluated = [human for human in people if human["split"] == "eval"]
    assert len({human["speaker"] for human in evaluated} - {"fillets-nl-others"}) >= 8
    trained, known_to_dev = (
        {name for name, attack in SOURCES["attacks"].items() if split in attack["utterances"]}
        for split in ("train", "dev")
    )
    assert known_to_dev - trained == {"lpc"}
    neural = {name for name, attack in SOURCES["attacks"].items() if "neural" in attack["about"]}
    assert neural == {"piper", "hifigan", "kokoro", "hibari", "mb_melgan"} and neural & trained == {"piper", "hifigan"}
    for split in "train", "dev", "eval":
        assert sum(bool(attack.get("copy")) and split in attack["utterances"] for attack in attacks) >= build.VOCODERS


def test_related_systems():
    splits = {name: set(attack["utterances"]) - {"narrow"} for name, attack in SOURCES["attacks"].items()}
    assert splits["hibari"] == splits["kokoro"] == {"eval"}  # one was distilled from the other
    assert "train" in splits["piper"] and "train" in splits["hifigan"]  # Piper's decoder is a HiFi-GAN
    assert splits["mlsa"] == splits["festival_hts"] == {"eval"}  # HTS speaks through MLSA
    for name in "world", "griffin_lim":  # in two forms each
        assert all("train" in splits[other] for other in splits if other.endswith(name) or other.startswith(name))
    by_split = [attack.get("voices", {}) for attack in SOURCES["attacks"].values()]
    voices = [voice for voices in by_split for some in voices.values() for voice in some]
    assert not {"en/slt", "en/kal", "en/kal16"} & set(voices)  # the people of Festival's slt and kal, in Flite


def test_chains():
    chains = {
        split: {human["chain"] for human in SOURCES["humans"].values() if human["split"] == split}
        for split in build.SPLITS
    }
    assert chains["train"] == chains["eval"] == set(treat.CHAINS) and chains["dev"] <= chains["train"]
    drawn = [treat.second_chain("train", "pcm", f"clip-{number}") for number in range(400)]
    assert all(drawn.count(chain) > 60 for chain in treat.CHAINS)
    assert treat.second_chain("eval", "g722", "clip") == "g722"
    assert treat.second_chain("narrow", "mp3", "clip") == "telephone"


def test_copies_are_of_everybody_in_equal_shares():
    rows = [
        {"utt_id": f"{name}-{i}", "speaker": name, "split": split, "language": "", "source": name, "codec": ""}
        for split, name, count in (("train", "ann", 6), ("train", "bob", 2), ("eval", "eve", 9)) for i in range(count)
    ]  # fmt: skip
    first, second = build._copies(rows, "train", 4), build._copies(rows, "train", 6, skip=4)
    assert sorted(job["speaker"] for job in first) == ["ann", "ann", "ann", "bob"]
    taken, others = ([job["pair_id"] for job in jobs] for jobs in (first, second))
    assert len(set(taken + others)) == 8 and others[-2:] == taken[:2]  # again from the start when all have a copy
    assert build._copies(rows, "train", 4, skip=8) == first


def test_profile_small():
    small = build.read_sources("small")
    assert {name: entry["utterances"] for name, entry in small["humans"].items()} == {
        name: -(-entry["utterances"] // 2) for name, entry in SOURCES["humans"].items()
    }
    assert small["attacks"]["espeak"]["utterances"] == {"train": 310, "dev": 50, "eval": 125, "narrow": 25}


def test_recordings(tmp_path):
    for name in "a-m-x.ogg", "a-v-x.ogg", "a-po.ogg", "beep-po.ogg":
        (tmp_path / name).touch()
    source = {"patterns": ["*.ogg", "!*-[mv]-*"], "chain": "vorbis22"}
    assert humans.recordings(source, tmp_path) == [tmp_path / "a-po.ogg"]


def test_queen(tmp_path):
    lines = {b"0303B9J1.SB": b"his line", b"0303B9P2.SB": b"her line", b"ZOMBIE.ACT": b"no line"}
    offset, table, data = 15 + 21 * len(lines), b"", b""
    for name, content in lines.items():
        table += (
            name.ljust(12, b"\0") + b"\1" + (offset + len(data)).to_bytes(4, "big") + len(content).to_bytes(4, "big")
        )
        data += content
    (tmp_path / "queen.1c").write_bytes(b"QTBLCEM10\0\0\0\1" + len(lines).to_bytes(2, "big") + table + data)
    source = {"patterns": ["queen/??????J?.mp3"], "chain": "mp3", "archive": "queen.1c"}
    (found,) = humans.recordings(source, tmp_path)
    assert found.name == "0303B9J1.mp3" and found.read_bytes() == b"his line"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["queen", "queen.1c"]
    (tmp_path / "other.1c").write_bytes(b"RIFF")
    with pytest.raises(UserError, match="other.1c does not begin with QTBL"):
        humans.unpack_queen(tmp_path / "other.1c", tmp_path / "other")


def test_profile_is_refused_by_name():
    with pytest.raises(UserError, match="'tinny' is not one of default, small, tiny"):
        build.read_sources("tinny")


@pytest.fixture(scope="module")
def clips(speech_files):
    read = [(path.name, *humans.decode(path)) for path in speech_files]
    return {name: (samples, rate) for name, samples, rate in read if len(samples) / rate > 1.9}


def test_treat(clips):
    assert len(clips) >= 8
    for name, (samples, rate) in clips.items():
        clip = treat.treat(samples, rate, name)
        if clip is None:
            continue
        assert clip.dtype == np.int16 and 1.5 * 16000 <= len(clip) <= 8 * 16000
        floats = clip / 32768
        frequencies, power = signal.welch(floats, 16000, nperseg=1024)
        assert power[frequencies > 7700].max() < 1e-5 * power.max(), name  # the floor's noise, no speech
        quiet = treat._frames(floats).min()
        assert -75 < quiet, f"{name}: digital silence is left"
        assert abs(treat._voiced_level(floats) - treat.LEVEL) < 2.5, name
        assert np.array_equal(clip, treat.treat(samples, rate, name))


def test_treat_makes_loudness_and_padding_vanish(clips):
    samples, rate = next(iter(clips.values()))
    padded = np.concatenate([np.zeros(rate), samples * 0.1, np.zeros(rate)])
    plain, other = treat.treat(samples, rate, "k"), treat.treat(padded, rate, "k")
    assert abs(len(plain) - len(other)) <= 320
    assert abs(plain.std() / other.std() - 1) < 0.05


def test_finished_once(clips):
    """Copies start from what `cut` leaves: cut again it is the same, and nothing of `finish` is in it yet."""
    samples, rate = next((samples, rate) for samples, rate in clips.values() if rate == 44100)
    raw = treat.cut(samples, rate)[0]
    assert abs(len(treat.cut(raw, 16000)[0]) - len(raw)) <= 320
    frequencies, power = signal.welch(raw, 16000, nperseg=1024)
    _, finished = signal.welch(treat.finish(raw, "k") / 32768, 16000, nperseg=1024)
    band, beyond = (frequencies > 2000) & (frequencies < 6000), (frequencies > 7300) & (frequencies < 7700)
    before, after = (spectrum[beyond].mean() / spectrum[band].mean() for spectrum in (power, finished))
    assert after < before / 10


def test_cut(clips):
    speech = [samples / np.abs(samples).max() for samples, rate in clips.values() if rate == 16000]
    pause = np.zeros(4800)
    long = np.concatenate([part for samples in speech * 3 for part in (samples, pause)])
    assert len(long) > 20 * 16000
    pieces = treat.cut(long, 16000)
    assert len(pieces) > 2 and all(1.5 <= len(piece) / 16000 <= 8 for piece in pieces)
    energy = sum((piece**2).sum() for piece in pieces)
    assert energy > 0.98 * (long**2).sum()
    for piece in pieces:  # parted in pauses, not in words
        edges = np.concatenate([piece[:400], piece[-400:]])
        assert edges.std() < 0.3 * piece.std()


def test_treat_refuses_what_is_too_short_or_broken():
    assert treat.treat(np.random.default_rng(0).normal(size=16000), 16000, "k") is None
    assert treat.treat(np.full(48000, np.nan), 16000, "k") is None


@pytest.mark.parametrize("chain", [*treat.CHAINS, "mp3", "telephone"])
def test_through(chain, clips):
    samples, rate = next((samples, rate) for samples, rate in clips.values() if rate == 16000)
    coded, to = treat.through(chain, samples, rate)
    assert abs(len(coded) / to - len(samples) / rate) < 0.05
    before, after = treat.treat(samples, rate, "k"), treat.treat(coded, to, "k")
    count = min(len(before), len(after))
    lags = signal.correlate(after[:count].astype(float), before[:count].astype(float), method="fft")
    likeness = lags.max() / np.sqrt((before[:count] ** 2.0).sum() * (after[:count] ** 2.0).sum())
    assert likeness > (0.5 if chain == "telephone" else 0.9)
    assert (chain == "pcm") == np.array_equal(before, after)


def test_texts(tmp_path):
    game = tmp_path / "usr/share/games/fillets-ng/script/city"
    game.mkdir(parents=True)
    (game / "dialogs_nl.lua").write_text(
        'dialogId("a-m-b", "font", "What kind of strange ship is that...?")\n'
        'dialogStr("Wat is dit voor raar schip — zeg “het” (nu)…")\n',
        "utf-8",
    )
    (game / "dialogs_fr.lua").write_text('dialogStr("- - Quel vaisseau étrange, là-bas !")\n', "utf-8")
    stamps = tmp_path / "usr/share/tuxpaint/stamps/coins"
    stamps.mkdir(parents=True)
    (stamps / "a.txt").write_text("A European coin of 5 cents.\nfr.utf8=Une pièce de monnaie européenne.\n", "utf-8")
    assert humans.texts("nl", tmp_path) == ["Wat is dit voor raar schip zeg het ."]
    assert humans.texts("en", tmp_path) == ["What kind of strange ship is that.", "A European coin of 5 cents."]
    found = ["Quel vaisseau étrange là-bas !", "Une pièce de monnaie européenne."]
    assert humans.texts("fr", tmp_path) == found  # no dash in front: that would be an option


def test_texts_are_in_one_split():
    sentences = [f"sentence {number}" for number in range(400)]
    shares = {split: sum(build._split_of(text) == split for text in sentences) for split in ("train", "dev", "eval")}
    assert shares["train"] > shares["dev"] > 50 and sum(shares.values()) == 400


def test_fetch_refuses_a_wrong_hash(tmp_path, monkeypatch):
    monkeypatch.setenv("AASIST_DOWNLOADS", str(tmp_path))
    package = {"registry": "debian", "version": "1:2.0", "sha256": "0" * 64}
    folder = tmp_path / "flite-1_2.0"
    folder.mkdir()
    (folder / "flite.deb").write_bytes(b"not what it was")
    with pytest.raises(UserError) as error:
        fetch.fetch({"flite": package})
    said = str(error.value)
    assert "flite 1:2.0" in said and "0" * 64 in said and fetch.sha256(folder / "flite.deb") in said
    assert "Delete" in said and "Your own data" in said and "\n" not in said


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A package of Python sources, which leaves a file behind when it is run."""
    monkeypatch.setenv("AASIST_DOWNLOADS", str(tmp_path / "downloads"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\nfrom setuptools import setup\nsetup(name='some', version='1')\n"
    with tarfile.open(tmp_path / "some-1.tar.gz", "w:gz") as archive:
        about = tarfile.TarInfo("some-1/setup.py")
        about.size = len(code)
        archive.addfile(about, io.BytesIO(code.encode()))
    return {"registry": "pypi", "version": "1", "sha256": fetch.sha256(tmp_path / "some-1.tar.gz")}


def test_fetch_checks_before_it_runs(registry, tmp_path, monkeypatch):
    for name, value in {"python_version": "3.11.2", "machine": "x86_64", "system": "Linux"}.items():
        monkeypatch.setattr(fetch.platform, name, lambda value=value: value)
    with pytest.raises(UserError) as error:
        fetch.fetch({"some": registry | {"sha256": "0" * 64}})
    said = str(error.value)
    assert "some 1: sha256 is " + registry["sha256"] in said and "0" * 64 in said and "Your own data" in said
    assert "something else" in said and "\n" not in said and not (tmp_path / "ran").exists()
    monkeypatch.setattr(fetch.platform, "machine", lambda: "aarch64")
    with pytest.raises(UserError, match="is for Python 3.11 on x86-64 Linux, and Python 3.11.2 on aarch64 Linux may"):
        fetch.fetch({"some": registry | {"sha256": "0" * 64}})
    assert list((tmp_path / "downloads").iterdir()) == []


@pytest.mark.parametrize("kind", ["outside", "link"])
def test_fetch_unpacks_nothing_outside(registry, tmp_path, kind):
    """Python 3.11.2 has no filter of its own."""
    archive = tmp_path / "some-1.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        member = tarfile.TarInfo("../outside" if kind == "outside" else "some-1/link")
        member.type, member.linkname = (tarfile.REGTYPE, "") if kind == "outside" else (tarfile.SYMTYPE, "/etc")
        file.addfile(member)
    with pytest.raises(UserError, match="package some: its archive holds .*: not used"):
        fetch._unpack("some", registry | {"form": "source"}, archive, tmp_path / "tools")
    assert not (tmp_path / "tools/outside").exists() and not (tmp_path / "tools/some").exists()


def test_portable():
    """Without Softmax and saturating products, the network gives what it gave before."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    from aasist_lib.corpus.portable import portable

    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.integers(-100, 100, (48, 32), dtype=np.int8), "weight")
    zero = numpy_helper.from_array(np.int8(3), "zero")
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "step", "middle"]),
        helper.make_node("MatMulInteger", ["q", "weight", "middle", "zero"], ["product"]),
        helper.make_node("Cast", ["product"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "step"], ["scaled"]),
        helper.make_node("Softmax", ["scaled"], ["y"], axis=-1),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [6, 48])
    outputs = [
        helper.make_tensor_value_info("product", TensorProto.INT32, [6, 32]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [6, 32]),
    ]
    for opset in 15, 20:
        graph = helper.make_graph(nodes, "network", [x], outputs, [weight, zero])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        found = portable(model.SerializeToString())
        assert not {"Softmax", "MatMulInteger"} & {node.op_type for node in onnx.load_from_string(found).graph.node}
        given = {"x": (0.01 * rng.standard_normal((6, 48))).astype(np.float32)}
        (product, y), (_, before) = (
            onnxruntime.InferenceSession(text, providers=["CPUExecutionProvider"]).run(None, given)
            for text in (found, model.SerializeToString())
        )
        steps = np.ptp(np.append(given["x"], 0)) / 255
        middle = np.clip(np.round(-given["x"].min() / steps), 0, 255)
        q = np.clip(np.round(given["x"] / np.float32(steps)) + middle, 0, 255)
        exact = (q - middle) @ (numpy_helper.to_array(weight).astype(float) - 3)
        assert np.array_equal(product, exact)
        assert np.allclose(y.sum(axis=1), 1, atol=1e-6) and np.allclose(y, before, atol=0.02)


def test_fetch_fills_an_emptied_folder(registry, tmp_path):
    (tmp_path / "downloads/some-1").mkdir(parents=True)
    (file,) = fetch.fetch({"some": registry}).values()
    assert file == tmp_path / "downloads/some-1/some-1.tar.gz" and fetch.sha256(file) == registry["sha256"]


@pytest.mark.skipif(not shutil.which("apt-config"), reason="needs apt")
def test_apt_keeps_to_itself(tmp_path):
    hooks = ["APT::Update::Pre-Invoke", "APT::Update::Post-Invoke", "APT::Update::Post-Invoke-Success"]
    (tmp_path / "system").write_text("".join(f'{hook} {{"touch somewhere";}};\n' for hook in hooks))
    (tmp_path / "ours").write_text(fetch.APT.format(room=tmp_path))
    dumped = [
        subprocess.check_output(["apt-config", *options, "dump"], env=os.environ | {"APT_CONFIG": tmp_path / "system"})
        for options in ([], ["-c", tmp_path / "ours"])
    ]
    assert [dump.count(b"touch somewhere") for dump in dumped] == [3, 0]
    assert f'dir::state::lists "{tmp_path}/lists"'.lower() in dumped[1].decode().lower()


def test_fetch_without_apt(tmp_path, monkeypatch):
    monkeypatch.setenv("AASIST_DOWNLOADS", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="needs apt-get .*Your own data"):
        fetch.fetch({"flite": SOURCES["packages"]["flite"]})


@pytest.mark.parametrize("registry, program", [("debian", "apt-get"), ("pypi", "pip")])
def test_fetch_without_a_registry(tmp_path, monkeypatch, registry, program):
    monkeypatch.setenv("AASIST_DOWNLOADS", str(tmp_path / "downloads"))
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'E: no route to the registry' >&2\nexit 100\n")
    broken.chmod(0o755)
    (tmp_path / "apt-get").symlink_to(broken)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(fetch, "PIP", [str(broken)])
    with pytest.raises(UserError, match=rf"{program} \(E: no route to the registry\).*Your own data"):
        fetch.fetch({"some": {"registry": registry, "version": "1", "sha256": "0" * 64}})
    assert list((tmp_path / "downloads").iterdir()) == []


def test_refused_condition():
    assert [build._condition("a", splits, "eval") for splits in (["train", "eval"], ["eval"])] == ["known", "unseen"]
    assert build._condition("a", ["dev"], "dev") == ""
    with pytest.raises(UserError, match="a is in dev and not in train.*sources.yaml"):
        build._condition("a", ["dev", "eval"], "eval")


@pytest.mark.parametrize("code, status", [("import os; os.kill(os.getpid(), 9)", "Killed"), ("exit(139)", "Segm")])
def test_refused_when_killed(tmp_path, monkeypatch, code, status):
    (tmp_path / "synthesiser").write_text(f"#!{sys.executable}\n{code}\n")
    (tmp_path / "synthesiser").chmod(0o755)
    monkeypatch.setattr(build.sys, "executable", str(tmp_path / "synthesiser"))
    with pytest.raises(UserError, match=f"program of espeak was killed .{status}.*start again"):
        build._run_program({"attack": "espeak", "program": "espeak", "packages": []}, [], tmp_path)


def test_refused_when_a_worker_is_killed():
    with pytest.raises(UserError, match="killed.*set corpus.workers lower and start again"):
        list(in_processes(exec, ["import os; os.kill(os.getpid(), 9)"], 1, "corpus.workers"))


def test_refused_when_too_small(monkeypatch):
    row = {"speaker": "s", "split": "train", "codec": "pcm"}
    protocol = pd.DataFrame([row | {"label": label} for label in ("bonafide", "spoof")])
    monkeypatch.setattr(build, "_check_copies", lambda protocol: None)
    build._check(protocol, "tiny")
    with pytest.raises(UserError, match="1 utterances are bonafide, 3000 are needed"):
        build._check(protocol, "small")


def test_refused_when_too_few_copies():
    row = {"speaker": "ann", "split": "train", "codec": "pcm", "pair_id": "", "attack": "", "label": "bonafide"}
    people = [row | {"utt_id": f"ann-{number}"} for number in range(10)]
    copies = [
        row | {"utt_id": f"copy-{number}", "label": "spoof", "pair_id": f"ann-{number}", "attack": f"kind-{number}"}
        for number in range(5)
    ]
    build._check_copies(pd.DataFrame(people + copies))
    with pytest.raises(UserError, match="4 of 10 recordings of ann have copies, by 4 kinds"):
        build._check_copies(pd.DataFrame(people + copies[:4]))


def test_order(tmp_path, monkeypatch):
    names = "flite-0", "flite-1", "mlsa-0", "mlsa-1"
    batches = [("attack", name, {"attack": name.partition("-")[0]}) for name in names]
    order = []
    monkeypatch.setattr(build, "in_processes", lambda work, jobs, *_: order.extend(name for _, name, _ in jobs) or [])
    with pytest.raises(FileNotFoundError), progress() as bar:
        build._batches(batches, tmp_path, tmp_path, 2, bar)
    assert order == ["mlsa-0", "flite-0", "mlsa-1", "flite-1"]


def test_progress(tmp_path, monkeypatch):
    kinds = ("flite", "mlsa", "kokoro")
    batches = [("attack", name, {"attack": name, "wanted": 40}) for name in kinds]
    clips = {"flite": 40, "mlsa": 30, "kokoro": 40}  # mlsa gives fewer than it should
    told = []

    def in_processes(_, jobs, *__):
        for job in jobs:
            told.append((bar.n, bar.total, bar.doing))
            (tmp_path / f"{job[1]}.json").write_text(json.dumps([{}] * clips[job[1]]))
            yield job

    monkeypatch.setattr(build, "in_processes", in_processes)
    (tmp_path / "flite.json").write_text(json.dumps([{}] * 40))  # by an earlier run
    with progress(total=120, cost=40 + sum(40 * build.COST[kind] for kind in ("mlsa", "kokoro"))) as bar:
        build._batches(batches, tmp_path, tmp_path, 2, bar)
    assert told == [(40, 120, "kokoro and mlsa"), (80, 120, "mlsa")] and bar.n == bar.total == 110
    assert bar.spent == bar.cost - bar.skipped == bar.cost - 40


@pytest.fixture(scope="module")
def downloads():
    if not shutil.which("apt-get"):
        pytest.skip("the default corpus needs apt-get")
    return os.environ | {"AASIST_DOWNLOADS": os.environ.get("AASIST_DOWNLOADS", str(ROOT / ".cache/downloads"))}


TOOLS = ROOT / "build/corpus/tools"


def not_unpacked(packages):
    """Which of them the checkout's own build has not unpacked."""
    return [name for name in packages if not fetch.mark(name, SOURCES["packages"][name], TOOLS).exists()]


def project(folder, workers, tools):
    folder.mkdir()
    settings = (ROOT / "params.yaml").read_text("utf-8").replace("profile: default", "profile: tiny")
    (folder / "params.yaml").write_text(re.sub(r"( workers:) \d+", rf"\1 {workers}", settings), "utf-8")
    (folder / "dvc.yaml").touch()
    (folder / "build/corpus/tiny-000000000000").mkdir(parents=True)
    (folder / "build/corpus/tools").symlink_to(tools)
    return folder


def processes_in(folder):
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").resolve() == folder and "State:\tZ" not in (process / "status").read_text():
                found.append((process / "cmdline").read_bytes())
        except OSError:  # ended meanwhile, or somebody else's
            continue
    return found


def within(seconds, condition):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
def test_build(tmp_path, downloads):
    command = [sys.executable, "-m", "aasist_lib.corpus", "build"]
    tools = tmp_path / "tools" if not_unpacked(build.read_sources("tiny")["packages"]) else TOOLS
    tools.mkdir(exist_ok=True)
    one, two = project(tmp_path / "one", 1, tools), project(tmp_path / "two", 2, tools)
    subprocess.run(command, cwd=one, env=downloads, check=True)
    assert [path.name for path in (one / "build/corpus").iterdir()] == ["tools"]

    done = {}
    for number, status, count in (signals.SIGKILL, -9, 8), (signals.SIGINT, 130, 11):  # batches, of 16
        process = subprocess.Popen(command, cwd=two, env=downloads, start_new_session=True, stderr=subprocess.PIPE)

        def at_work(count=count, process=process):
            assert process.poll() is None
            finished = len(list(two.glob("build/corpus/tiny-*/*.json")))
            return finished >= count and any(b"corpus.programs" in command for command in processes_in(two))

        assert within(300, at_work)
        if number == signals.SIGKILL:
            process.kill()
        else:
            os.killpg(process.pid, number)  # as a terminal does it
        said = process.communicate(timeout=60)[1].decode().splitlines()
        assert process.returncode == status and within(10, lambda: not processes_in(two)), processes_in(two)
        finished = {path: path.stat().st_mtime_ns for path in two.glob("build/corpus/tiny-*/*.json")}
        assert done.items() <= finished.items()
        done = finished
        assert not (two / "corpus").exists()
    assert said[-1] == "stopped; the same command goes on from here", said
    assert all(line.startswith("corpus: ") for line in said[:-2]), said
    clips = {
        Path(row["path"]): (next(two.glob("build/corpus/tiny-*")) / row["path"]).stat().st_mtime_ns
        for path in done
        for row in json.loads(path.read_text("utf-8"))
    }
    subprocess.run(command, cwd=two, env=downloads, check=True)
    assert len(clips) > 50 and all((two / "corpus" / path).stat().st_mtime_ns == at for path, at in clips.items())
    first, second = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}
        for folder in (one / "corpus", two / "corpus")
    )
    assert len(first) > 120 and first == second


@pytest.mark.slow
@pytest.mark.parametrize("attack", SOURCES["attacks"])
def test_synthesisers(attack, tmp_path, speech):
    entry = SOURCES["attacks"][attack]
    if missing := not_unpacked(entry["packages"]):
        pytest.skip(f"not unpacked in build/corpus/tools, as `dvc repro corpus` does: {', '.join(missing)}")
    if entry.get("copy"):
        (tmp_path / "raw").mkdir()
        recording = tmp_path / "raw/carlo-0000.flac"  # as the builder names what is copied
        shutil.copy(speech / "asterisk-it-vm-calldiffnum.flac", recording)
        given = [{"source": str(recording)}]
    else:
        language, voice = next(iter(entry["voices"].values()))[0].split("/")
        texts = "A strange ship lies at the bottom of the sea.", "Nobody has been here for many years."
        given = [{"text": text, "voice": voice, "language": language} for text in texts]
    heard = []
    for turn in "first", "second":
        jobs = [job | {"out": str(tmp_path / f"{turn}{n}.wav"), "seed": n} for n, job in enumerate(given)]
        said = build._run_program(entry | {"attack": attack}, jobs, TOOLS)
        assert all(Path(job["out"]).exists() for job in jobs), said
        heard.append([Path(job["out"]).read_bytes() for job in jobs])
    assert heard[0] == heard[1]
    for job in jobs:
        samples, rate = soundfile.read(job["out"])
        assert 1 < len(samples) / rate < 10 and samples.ndim == 1
        loud = np.abs(samples) > 0.01
        assert loud.mean() > 0.1 and samples.std() > 0.005
