"""aasist_lib.corpora

| what | test |
|---|---|
| the names in params.yaml are those of the table of formats | test_formats_are_those_of_the_settings |
| every public corpus, with the names of files that its archives have | test_layouts |
| archives unpacked higher or deeper, in parts, or recordings converted: the same table | test_unpacked_otherwise |
| A16 and A19 of ASVspoof 2019 and 2021 are machines of train; other corpora's A16 is not | test_same_machines |
| eval of another corpus beside train and dev of one | test_joined |
| an attack called alike by chance gets its corpus' name added; an utt_id in both is refused | test_joined_by_chance |
| the subsets of ASVspoof 2021 | test_subsets |
| fakes without bona fide are refused with what to do | test_fakes_alone |
| missing recordings are told: the first five and how many; all of them are refused | test_missing |
| another number of utterances than was published is told with both | test_counts |
| a wrong row stops with file and line | test_wrong_rows_of_a_corpus |
| what is not there is named: protocol, format, subset, folder of bona fide | test_not_there |
| the section of params.yaml, what notebooks show of it, and no training without train | test_from_settings |
| the name of the test set has subset and bona fide | test_names |
| the keys of ASVspoof 2021 DF at their full size | test_full_size |
| a protocol round-trips, empty cells stay text | test_protocol |
| a folder of bonafide/ and spoof/ becomes the same table, conditions included | test_folder |
| an attack of eval that dev alone has is neither known nor unseen | test_folder_refuses_attacks_of_dev_alone |
| links are followed; what they lead to stays where it is, too | test_links, test_link_to_a_corpus |
| what lies in the folders of a corpus and is not taken is counted and named | test_not_taken |
| so are names that are not UTF-8 | test_names_that_are_not_unicode |
| a recording in two splits or both classes is refused, by whatever path or link | test_leaks, test_leaks_by_folders |
| a folder that cannot be read is refused | test_folder_that_cannot_be_read |
| bonafide/ and spoof/ alone are an eval | test_plain_folder |
| a split narrow is read, has conditions, comes from where eval comes from, and is missed by nobody | test_narrow |
| conditions of narrow that train or dev contradict are refused; none at all is allowed there | test_narrow_conditions |
| what a table must not say is refused by name, paths that leave the corpus too | test_refused |
| declared conditions that train or dev contradict are refused, whatever cannot be known is not | test_conditions |
| a protocol that is no table is refused in one line | test_no_table |
| what spreadsheets add is passed over | test_empty_columns_and_rows_of_a_spreadsheet |
| lengths are those of the recordings; files that cannot be opened are left out | test_measured |
| the summary counts names, not their absence, in the order of the splits | test_summary |
| the example is the most copied recording, or one of each class | test_example |
| the store holds what librosa computes; the sample is spread over it | test_differences_from_reference |
"""

import io
import json
import os
import shutil
import typing
import warnings

import numpy as np
import pandas as pd
import pytest
import soundfile

from aasist_lib import corpora, params, store
from aasist_lib.audit.reference import differences_from_reference
from aasist_lib.base.errors import UserError
from aasist_lib.store.store import checksum

ROWS = [
    {"utt_id": "b", "path": "audio/b.flac", "label": "spoof", "split": "eval", "condition": "unseen", "attack": "x"},
    {"utt_id": "a", "path": "audio/a.flac", "label": "bonafide", "split": "eval", "speaker": "NA"},
    {"utt_id": "c", "path": "audio/c.flac", "label": "spoof", "split": "eval", "condition": "known", "attack": "y"},
    {"utt_id": "d", "path": "audio/d.flac", "label": "spoof", "split": "train", "attack": "y"},
    {"utt_id": "e", "path": "audio/e.flac", "label": "spoof", "split": "dev", "attack": "z"},
]
FILES = [
    "train/bonafide/ann/1.wav", "train/spoof/espeak/1.flac", "dev/bonafide/2.ogg", "eval/bonafide/bob/3.wav",
    "eval/spoof/espeak/4.wav", "eval/spoof/vits/5.WAV", "eval/spoof/vits/notes.txt", "eval/spoof/6.wav",
]  # fmt: skip


def write(folder, rows):
    pd.DataFrame(rows).fillna("").to_csv(folder / "protocol.csv", index=False)
    return touch(folder, [f"audio/{name}.flac" for name in "abcde"])


def link(place, target):
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(os.path.relpath(target, place.parent))


def touch(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


LA, T, D, E = "LA/ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm", "LA_T_1138215", "LA_D_1047731", "LA_E_2834763"
# As they lie after unpacking: the text of a protocol, or None for a recording.
LAYOUTS = {
    "asvspoof2019_la": {
        f"{LA}.train.trn.txt": (
            f"LA_0079 {T} - - bonafide\nLA_0079 LA_T_1007571 - A04 spoof\nLA_0080 LA_T_2 - A06 spoof\n"
        ),
        f"{LA}.dev.trl.txt": f"LA_0069 {D} - - bonafide\nLA_0069 LA_D_2 - A04 spoof\n",
        f"{LA}.eval.trl.txt": (
            f"LA_0039 {E} - A11 spoof\nLA_0030 LA_E_5849185 - - bonafide\nLA_0039 LA_E_2 - A16 spoof\n"
            "LA_0039 LA_E_3 - A19 spoof\n"
        ),
        **{f"LA/ASVspoof2019_LA_train/flac/{name}.flac": None for name in (T, "LA_T_1007571", "LA_T_2")},
        **{f"LA/ASVspoof2019_LA_dev/flac/{name}.flac": None for name in (D, "LA_D_2")},
        **{f"LA/ASVspoof2019_LA_eval/flac/{name}.flac": None for name in (E, "LA_E_5849185", "LA_E_2", "LA_E_3")},
        "LA/README.LA.txt": "about",
    },
    "asvspoof2021_la": {
        "keys/LA/CM/trial_metadata.txt": (
            "LA_0009 LA_E_9332881 alaw ita_tx A07 spoof notrim eval\n"
            "LA_0031 LA_E_6866159 none loc_tx bonafide bonafide notrim eval\n"
            "LA_0031 LA_E_6866160 opus loc_tx A19 spoof notrim eval\n"
            "LA_0031 LA_E_7 gsm mad_tx bonafide bonafide notrim progress\n"
            "LA_0031 LA_E_8 gsm mad_tx A08 spoof trim hidden\n"
        ),
        "keys/LA/ASV/trial_metadata.txt": "LA_0009 LA_E_9332881 alaw ita_tx A07 spoof notrim eval\n",
        **{
            f"ASVspoof2021_LA_eval/flac/LA_E_{name}.flac": None
            for name in ("9332881", "6866159", "6866160", "7", "8")
        },
    },
    "asvspoof2021_df": {
        "keys/DF/CM/trial_metadata.txt": (
            "LA_0023 DF_E_2000011 nocodec asvspoof A14 spoof notrim eval traditional_vocoder - - - -\n"
            "TEF2 DF_E_2000013 low_m4a vcc2020 Task1-team20 spoof notrim eval neural_vocoder Task1 team20 FF E\n"
            "TEM2 DF_E_2000014 oggm4a vcc2020 bonafide bonafide notrim eval bonafide - - M E\n"
            "TEM2 DF_E_2000015 oggm4a vcc2020 bonafide bonafide notrim progress bonafide - - M E\n"
        ),
        **{f"ASVspoof2021_DF_eval/flac/DF_E_20000{name}.flac": None for name in (11, 13, 14, 15)},
    },
    "asvspoof5": {
        "ASVspoof5.train.tsv": (
            "T_4850 T_0000000000 F - - - AC3 A05 spoof -\nT_4851 T_0000000001 F - - - - bonafide bonafide -\n"
        ),
        "ASVspoof5.dev.track_1.tsv": (
            "D_0062 D_0000000001 F - - - AC1 A11 spoof -\nD_0461 D_0000000190 M - - - - bonafide bonafide -\n"
        ),
        "ASVspoof5.eval.track_1.tsv": (
            "E_1607 E_0009538969 M C05 2 E_0009486171 AC1 A26 spoof -\nE_1 E_0000000002 F - - - - bonafide bonafide -\n"
        ),
        **{f"flac_T/T_000000000{i}.flac": None for i in range(2)},
        **{f"flac_D/D_0000000{name}.flac": None for name in ("001", "190")},
        **{f"flac_E_eval/E_000{name}.flac": None for name in ("9538969", "0000002")},
    },
    "in_the_wild": {
        "release_in_the_wild/meta.csv": (
            "file,speaker,label\n0.wav,Alec Guinness,spoof\n1.wav,Alec Guinness,spoof\n2.wav,Barack Obama,bona-fide\n"
        ),
        **{f"release_in_the_wild/{i}.wav": None for i in range(3)},
    },
    **{
        f"for_{variant}": {
            f"for-{variant}/{split}/{label}/file{i}.wav": None
            for split in ("training", "validation", "testing")
            for i, label in enumerate(("fake", "real"))
        }
        for variant in ("original", "norm", "2sec", "rerec")
    },
    "wavefake": {
        "generated_audio/ljspeech_melgan/LJ001-0001_gen.wav": None,
        "generated_audio/jsut_parallel_wavegan/BASIC5000_0001_gen.wav": None,
        "generated_audio/common_voices_prompts_from_conformer_fastspeech2_pwg_ljspeech/gen_0.wav": None,
        "real/LJSpeech-1.1/wavs/LJ001-0001.wav": None,
        "real/jsut_ver1.1/basic5000/wav/BASIC5000_0001.wav": None,
    },
    "mlaad": {
        "fake/de/tts_models_de_thorsten_vits/a b.wav": None,
        "fake/de/tts_models_de_thorsten_vits/meta.csv": "path|original_file\n",
        "fake/en/suno_bark/c.wav": None,
        "real/de_DE/by_book/female/ramona_deininger/caspar/wavs/d.wav": None,
        "real/en_US/by_book/male/elliot_miller/emma/wavs/d.wav": None,
    },
}  # fmt: skip
# utt_id -> label, speaker, attack, split, condition, language, codec, pair_id
TABLES = {
    "asvspoof2019_la": {
        T: "bonafide LA_0079 . train . . . .", "LA_T_1007571": "spoof LA_0079 A04 train . . . .",
        "LA_T_2": "spoof LA_0080 A06 train . . . .", D: "bonafide LA_0069 . dev . . . .",
        "LA_D_2": "spoof LA_0069 A04 dev . . . .", E: "spoof LA_0039 A11 eval unseen . . .",
        "LA_E_5849185": "bonafide LA_0030 . eval . . . .", "LA_E_2": "spoof LA_0039 A16 eval known . . .",
        "LA_E_3": "spoof LA_0039 A19 eval known . . .",
    },
    "asvspoof2021_la": {
        "LA_E_9332881": "spoof LA_0009 A07 eval unseen . alaw .", "LA_E_6866159": "bonafide LA_0031 . eval . . none .",
        "LA_E_6866160": "spoof LA_0031 A19 eval unseen . opus .",
    },
    "asvspoof2021_df": {
        "DF_E_2000011": "spoof LA_0023 A14 eval unseen . nocodec .",
        "DF_E_2000013": "spoof TEF2 Task1-team20 eval unseen . low_m4a .",
        "DF_E_2000014": "bonafide TEM2 . eval . . oggm4a .",
    },
    "asvspoof5": {
        "T_0000000000": "spoof T_4850 A05 train . . none .", "T_0000000001": "bonafide T_4851 . train . . none .",
        "D_0000000001": "spoof D_0062 A11 dev . . none .", "D_0000000190": "bonafide D_0461 . dev . . none .",
        "E_0009538969": "spoof E_1607 A26 eval unseen . C05 .", "E_0000000002": "bonafide E_1 . eval . . none .",
    },
    "in_the_wild": {
        "0.wav": "spoof Alec_Guinness unnamed eval unseen . . .",
        "1.wav": "spoof Alec_Guinness unnamed eval unseen . . .",
        "2.wav": "bonafide Barack_Obama . eval . . . .",
    },
    **{
        f"for_{variant}": {
            "training-fake-file0": "spoof . unnamed_(training) train . . . .",
            "training-real-file1": "bonafide . . train . . . .",
            "validation-fake-file0": "spoof . unnamed_(validation) dev . . . .",
            "validation-real-file1": "bonafide . . dev . . . .",
            "testing-fake-file0": "spoof . unnamed_(testing) eval unseen . . .",
            "testing-real-file1": "bonafide . . eval . . . .",
        }
        for variant in ("original", "norm", "2sec", "rerec")
    },
    "wavefake": {
        "ljspeech_melgan-LJ001-0001_gen":
            "spoof . ljspeech_melgan eval unseen . . real-LJSpeech-1.1-wavs-LJ001-0001",
        "jsut_parallel_wavegan-BASIC5000_0001_gen":
            "spoof . jsut_parallel_wavegan eval unseen . . real-jsut_ver1.1-basic5000-wav-BASIC5000_0001",
        "common_voices_prompts_from_conformer_fastspeech2_pwg_ljspeech-gen_0":
            "spoof . common_voices_prompts_from_conformer_fastspeech2_pwg_ljspeech eval unseen . . .",
        "real-LJSpeech-1.1-wavs-LJ001-0001": "bonafide LJSpeech-1.1 . eval . . . .",
        "real-jsut_ver1.1-basic5000-wav-BASIC5000_0001": "bonafide jsut_ver1.1 . eval . . . .",
    },
    "mlaad": {
        "de-tts_models_de_thorsten_vits-a b": "spoof . tts_models_de_thorsten_vits eval unseen de . .",
        "en-suno_bark-c": "spoof . suno_bark eval unseen en . .",
        "real-de_DE-by_book-female-ramona_deininger-caspar-wavs-d": "bonafide ramona_deininger . eval . de_DE . .",
        "real-en_US-by_book-male-elliot_miller-emma-wavs-d": "bonafide elliot_miller . eval . en_US . .",
    },
}  # fmt: skip
OPTIONS = {"wavefake": {"bonafide": "real"}, "mlaad": {"bonafide": "real"}}
pytestmark = pytest.mark.filterwarnings("ignore:.*not taken")  # test_not_taken's business
# these corpora are a few utterances long; what that says of their counts is test_counts' business
few = pytest.mark.filterwarnings("ignore:.*published are")


@pytest.fixture
def unpack(tmp_path, speech_files):
    """Makes the files of corpora, recordings real ones."""

    def unpack(*names, root=tmp_path, move=lambda path: path):
        files = {path: text for name in names for path, text in LAYOUTS[name].items()}
        for i, (path, text) in enumerate(files.items()):
            target = root / move(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                shutil.copy(speech_files[i % len(speech_files)], target)
            else:
                target.write_text(text)
        return root

    return unpack


def told(root, *arguments, **options):
    """The warnings of a call of `read`."""
    with pytest.warns(UserWarning) as warned:
        corpora.read(root, *arguments, **options)
    return [str(warning.message) for warning in warned]


def refused(root, *arguments, **options):
    with pytest.raises(UserError) as error:
        corpora.read(root, *arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value).replace(f"{root}", "ROOT")


def test_formats_are_those_of_the_settings():
    assert set(typing.get_args(params.Format)) == set(corpora.FORMATS)
    assert set(LAYOUTS) | {"protocol", "folder"} == set(corpora.FORMATS)


@few
@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name, unpack):
    root = unpack(name)
    table = corpora.read(root, name, **OPTIONS.get(name, {}))
    assert list(table.columns) == corpora.COLUMNS and list(table["utt_id"]) == sorted(TABLES[name])
    columns = ["label", "speaker", "attack", "split", "condition", "language", "codec", "pair_id"]
    found = {
        utt_id: " ".join(str(value).replace(" ", "_") or "." for value in row)
        for utt_id, row in table.set_index("utt_id")[columns].iterrows()
    }
    assert found == TABLES[name]
    assert all((root / path).is_file() for path in table["path"])
    recordings = {path for path, text in LAYOUTS[name].items() if text is None}
    assert set(table["path"]) <= recordings
    if not corpora.FORMATS[name].subsets:
        assert set(table["path"]) == recordings


@few
@pytest.mark.parametrize(
    "name, move",
    [
        ("asvspoof2019_la", lambda path: path.removeprefix("LA/")),
        ("asvspoof2019_la", lambda path: f"downloads/2019/{path}"),
        ("asvspoof2019_la", lambda path: path.replace(".flac", ".wav")),
        ("asvspoof2021_df", lambda path: path.removeprefix("keys/DF/CM/")),
        ("asvspoof2021_df", lambda path: path.replace("keys/", "DF-keys-full/keys/")),
        (
            "asvspoof2021_df",
            lambda path: path.replace("DF_eval/", f"DF_eval_part0{path[-6]}/") if "flac" in path else path,
        ),
        ("asvspoof5", lambda path: f"ASVspoof5_protocols/{path}" if "tsv" in path else path),
        ("in_the_wild", lambda path: path.removeprefix("release_in_the_wild/")),
        ("for_norm", lambda path: path.removeprefix("for-norm/")),
        ("for_rerec", lambda path: path.replace("for-rerec/", "for-rerec/for-rerecorded/")),
        ("for_rerec", lambda path: path.replace("for-rerec/", "for-rerecorded/")),
        ("for_2sec", lambda path: path.replace("for-2sec/", "for-2seconds/")),
        ("wavefake", lambda path: path.removeprefix("generated_audio/")),
        ("mlaad", lambda path: path.replace("fake/", "MLAAD/fake/")),
    ],
)
def test_unpacked_otherwise(name, move, unpack, tmp_path):
    options = OPTIONS.get(name, {})
    usual = corpora.read(unpack(name, root=tmp_path / "usual"), name, **options)
    moved = corpora.read(unpack(name, root=tmp_path / "moved", move=move), name, **options)
    assert all((tmp_path / "moved" / path).is_file() for path in moved["path"])
    assert moved.drop(columns="path").equals(usual.drop(columns="path"))


@few
def test_same_machines(unpack):
    root = unpack("asvspoof2019_la", "asvspoof2021_la", "asvspoof5")
    for eval_format, known in ("", {"A16", "A19"}), ("asvspoof2021_la", {"A19"}):
        table = corpora.read(root, "asvspoof2019_la", eval_format=eval_format)
        assert set(table.loc[table["condition"] == "known", "attack"]) == known
    path = root / "ASVspoof5.train.tsv"
    path.write_text(path.read_text().replace("A05", "A06"))  # of ASVspoof 5, and so another than A06, or A19, of 2019
    table = corpora.read(root, "asvspoof5", eval_format="asvspoof2021_la")
    assert set(table["condition"]) == {"", "unseen"}


@few
def test_joined(unpack):
    root = unpack("asvspoof2019_la", "asvspoof2021_df", "in_the_wild", "for_norm")
    whole = corpora.read(root, "asvspoof2019_la")
    for other in "asvspoof2021_df", "in_the_wild", "for_norm":
        table = corpora.read(root, "asvspoof2019_la", eval_format=other)
        trained = table[table["split"] != "eval"].reset_index(drop=True)
        assert trained.equals(whole[whole["split"] != "eval"].reset_index(drop=True))
        alone = corpora.read(root, other)
        tested = table[table["split"] == "eval"].reset_index(drop=True)
        assert tested.equals(alone[alone["split"] == "eval"].reset_index(drop=True))
    assert corpora.read(root, "in_the_wild", eval_format="in_the_wild").equals(corpora.read(root, "in_the_wild"))
    shutil.rmtree(root / "LA/ASVspoof2019_LA_eval")
    (root / f"{LA}.eval.trl.txt").unlink()  # nobody needs it
    assert len(corpora.read(root, "asvspoof2019_la", eval_format="in_the_wild")) == 8


@few
def test_joined_by_chance(unpack):
    root = unpack("asvspoof2019_la", "asvspoof5")
    path = root / "ASVspoof5.eval.track_1.tsv"
    path.write_text(path.read_text().replace("A26", "A04"))
    table = corpora.read(root, "asvspoof2019_la", eval_format="asvspoof5").set_index("utt_id")
    assert table.loc["E_0009538969", ["attack", "condition"]].tolist() == ["A04 (ASVspoof 5)", "unseen"]
    path.write_text(path.read_text().replace("E_0009538969", T))
    assert refused(root, "asvspoof2019_la", eval_format="asvspoof5") == (
        f"ROOT: utt_id {T} is in ASVspoof 2019 LA and in ASVspoof 5: what is said of it would be ambiguous; rename it "
        "in one of them"
    )


@few
def test_subsets(unpack):
    root = unpack("asvspoof2021_la")
    for subset, ids in {
        "eval": ["LA_E_6866159", "LA_E_6866160", "LA_E_9332881"], "progress": ["LA_E_7"], "hidden": ["LA_E_8"],
        "all": ["LA_E_6866159", "LA_E_6866160", "LA_E_7", "LA_E_8", "LA_E_9332881"],
    }.items():  # fmt: skip
        assert corpora.read(root, "asvspoof2021_la", subset=subset)["utt_id"].tolist() == ids
    (root / "keys/LA/CM/trial_metadata.txt").write_text("LA_0009 LA_E_7 alaw ita_tx A07 spoof notrim progress\n")
    assert refused(root, "asvspoof2021_la") == (
        "ROOT/keys/LA/CM/trial_metadata.txt: no row of the subset eval; see corpus.subset"
    )


@pytest.mark.parametrize("name", OPTIONS)
def test_fakes_alone(name, unpack):
    root, title = unpack(name), corpora.FORMATS[name].title
    assert refused(root, name) == (
        f"{title} holds fakes alone: put bona fide recordings below ROOT and name their folder in corpus.bonafide"
    )
    usual = corpora.read(root, name, bonafide="real")
    for folder in "real/", "./real", "real//", "real/.":
        assert corpora.read(root, name, bonafide=folder).equals(usual)
    for folder in "nowhere", "..", "fake/de/nothing", "../real":
        assert "is no folder below ROOT that holds recordings" in refused(root, name, bonafide=folder)
    (root / "other").mkdir()
    shutil.copytree(root / "real", root / "other/real")
    shutil.rmtree(root / "fake" if name == "mlaad" else root / "generated_audio")
    assert f"holds no fakes of {title}" in refused(root, name, bonafide="other/real")


def test_missing(tmp_path, unpack):
    root = unpack("asvspoof2019_la")
    folder = root / "LA/ASVspoof2019_LA_eval/flac"
    (folder / f"{E}.flac").unlink()
    lines = [line for line in told(root, "asvspoof2019_la") if "missing" in line]
    assert lines == [f"1 of 9 recordings are missing: LA/ASVspoof2019_LA_eval/flac/{E}.flac"]
    for split in "train", "dev":
        shutil.rmtree(root / f"LA/ASVspoof2019_LA_{split}")
    lines = [line for line in told(root, "asvspoof2019_la") if "missing" in line]
    names = [f"ASVspoof2019_LA_dev/flac/{name}.flac" for name in (D, "LA_D_2")]
    assert lines[0].startswith(
        f"6 of 9 recordings are missing: {', '.join(names)}, LA/ASVspoof2019_LA_eval/flac/{E}.flac"
    )
    assert lines[0].endswith(" and 1 more") and lines[0].count(".flac") == 5
    shutil.rmtree(root / "LA/ASVspoof2019_LA_eval")
    with pytest.warns(UserWarning, match="published"):
        assert refused(root, "asvspoof2019_la").startswith(
            "ROOT: none of the 9 recordings is there: ASVspoof2019_LA_dev/"
        )


def test_counts(unpack):
    root = unpack("asvspoof2019_la", "asvspoof2021_la", "asvspoof2021_df")
    assert told(root, "asvspoof2019_la") == [
        "ASVspoof 2019 LA, train: holds 1 bona fide and 2 spoofed utterances; published are 2,580 bona fide and 22,800 "
        "spoofed utterances",
        "ASVspoof 2019 LA, dev: holds 1 bona fide and 1 spoofed utterances; published are 2,548 bona fide and 22,296 "
        "spoofed utterances",
        "ASVspoof 2019 LA, eval: holds 1 bona fide and 3 spoofed utterances; published are 7,355 bona fide and 63,882 "
        "spoofed utterances",
    ]
    assert told(root, "asvspoof2021_df") == [
        "ASVspoof 2021 DF, eval, subset eval: holds 1 bona fide and 2 spoofed utterances; published are 14,869 bona "
        "fide and 519,059 spoofed utterances"
    ]
    assert "published are 611,829 utterances" in told(root, "asvspoof2021_df", subset="all")[0]
    assert "published are 148,176 utterances" in told(root, "asvspoof2021_la")[0]


@few
def test_wrong_rows_of_a_corpus(unpack):
    root = unpack("asvspoof2019_la")
    path = root / f"{LA}.dev.trl.txt"
    path.write_text(path.read_text().replace("A04 spoof", "A04 bonafide"))
    assert refused(root, "asvspoof2019_la") == (
        f"ROOT/{LA}.dev.trl.txt:2: expected no attack (- or bonafide) of LA_D_2, which is bonafide, found 'A04'"
    )
    path.write_text(f"LA_0069 {T} - - bonafide\n")
    assert refused(root, "asvspoof2019_la") == (
        f"ROOT/{LA}.dev.trl.txt:1: utt_id {T} occurs more than once: as LA/ASVspoof2019_LA_train/flac/{T}.flac "
        f"({LA}.train.trn.txt:1) and as LA/ASVspoof2019_LA_dev/flac/{T}.flac"
    )


def test_not_there(unpack):
    root = unpack("asvspoof2019_la")
    assert refused(root, "asvspoof5") == (
        "ROOT: ASVspoof5.train.tsv is not in it, nor in a folder below; unpack ASVspoof 5 there"
    )
    assert refused(root, "asvspoof2019la").endswith(": did you mean 'asvspoof2019_la'?")
    assert refused(root, eval_format="in_the_wildd").startswith("corpus.eval_format: 'in_the_wildd' is not one of ")
    assert refused(root, subset="evaluation").startswith("corpus.subset: 'evaluation' is not one of eval, progress")
    assert refused(root, "for_norm") == "ROOT: holds no utterances in this format; see corpus.format"
    (root / "2").mkdir()
    (root / "1").mkdir()
    for copy in "1", "2":
        shutil.copytree(root / "LA", root / copy / "LA")
    shutil.rmtree(root / "LA")
    assert "leave one of them" in refused(root, "asvspoof2019_la")


@few
def test_from_settings(unpack, monkeypatch, capsys):
    root = unpack("asvspoof2019_la", "asvspoof2021_df", "in_the_wild")
    settings = {"format": "asvspoof2019_la", "eval_format": "", "bonafide": "", "subset": "eval", "workers": 2}
    monkeypatch.delenv("AASIST_TERMINAL", raising=False)
    table, about = corpora.from_settings(root, settings)
    assert table.equals(corpora.read(root, "asvspoof2019_la"))
    assert about[0] == "Test set: ASVspoof 2019 LA, eval" and about[1].startswith("To compare with: EER and min t-DCF")
    assert len(about) == 5 and all(line.startswith("Note: ASVspoof 2019 LA, ") for line in about[2:])
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("AASIST_TERMINAL", "")
    (root / "ASVspoof2021_DF_eval/flac/DF_E_2000011.flac").unlink()
    about = corpora.from_settings(root, settings | {"eval_format": "asvspoof2021_df"})[1]
    assert about[0] == "Test set: ASVspoof 2021 DF, subset eval"
    assert about[-1] == "Note: 1 of 8 recordings are missing: ASVspoof2021_DF_eval/flac/DF_E_2000011.flac"
    out, err = capsys.readouterr()
    assert out == "" and [f"Note: {line.removeprefix('corpus: ')}" for line in err.splitlines()] == about[2:]
    with pytest.raises(UserError) as error:
        corpora.from_settings(root, settings | {"format": "in_the_wild"})
    assert str(error.value) == (
        "this corpus has no train and no dev: set corpus.format to one that has (asvspoof2019_la, for example) and "
        "corpus.eval_format to this one (in_the_wild), both in the same folder"
    )
    touch(root, ["train/bonafide/1.wav", "dev/bonafide/2.wav"])
    with pytest.raises(UserError, match="this corpus has no eval: set corpus.eval_format"):
        corpora.from_settings(root, settings | {"format": "folder"})
    touch(root, ["train/spoof/1.wav", "dev/spoof/2.wav", "eval/spoof/3.wav"])
    with pytest.raises(UserError, match="^eval of this corpus has no bonafide recordings: add some"):
        corpora.from_settings(root, settings | {"format": "folder"})


def test_names():
    assert corpora.test_name("protocol") == "corpus of protocol.csv, eval"
    assert corpora.test_name("asvspoof2021_la", subset="all") == "ASVspoof 2021 LA, all subsets"
    assert corpora.test_name("asvspoof5", "in_the_wild") == "In-the-Wild"
    assert corpora.test_name("for_2sec") == "FoR (for-2sec), eval"
    assert corpora.test_name("asvspoof5", "mlaad", "eval", "M-AILABS") == "MLAAD, with bona fide of M-AILABS"


def test_full_size(tmp_path, monkeypatch):
    """As many rows as published, class by class, and so without a warning; no file of theirs is opened."""
    text = io.StringIO()
    for i in range(611_829):
        subset = "eval" if i < 533_928 else "progress"
        attack, label = ("bonafide", "bonafide") if i < 14_869 else (f"A{7 + i % 13:02d}", "spoof")
        text.write(
            f"LA_{i % 48:04d} DF_E_{2_000_000 + i} nocodec asvspoof {attack} {label} notrim {subset} x - - - -\n"
        )
    (tmp_path / "keys/DF/CM").mkdir(parents=True)
    (tmp_path / "keys/DF/CM/trial_metadata.txt").write_text(text.getvalue())
    audio = [f"ASVspoof2021_DF_eval/flac/DF_E_{2_000_000 + i}.flac" for i in range(611_829)]
    monkeypatch.setattr("aasist_lib.corpora.table._files", lambda root: (["keys/DF/CM/trial_metadata.txt", *audio], {}))
    assert len(corpora.read(tmp_path, "asvspoof2021_df")) == 533_928
    table = corpora.read(tmp_path, "asvspoof2021_df", subset="all")
    assert len(table) == 611_829 and table["path"].tolist() == audio


def test_protocol(tmp_path):
    table = corpora.read(write(tmp_path, ROWS), "protocol")
    assert list(table.columns) == corpora.COLUMNS
    assert list(table["utt_id"]) == ["a", "b", "c", "d", "e"]
    assert table.loc[0, "speaker"] == "NA" and table.loc[0, "attack"] == ""  # neither became a missing value


def test_folder(tmp_path):
    table = corpora.read(touch(tmp_path, FILES), "folder").set_index("path")
    assert len(table) == 7
    assert table.loc["train/bonafide/ann/1.wav", "speaker"] == "ann"
    assert table.loc["eval/spoof/espeak/4.wav", "condition"] == "known"
    assert table.loc["eval/spoof/vits/5.WAV", ["condition", "attack"]].tolist() == ["unseen", "vits"]
    assert table.loc["eval/spoof/6.wav", ["condition", "attack"]].tolist() == ["unseen", "unnamed"]
    assert set(table.loc[table["split"] != "eval", "condition"]) == {""}


def test_links(tmp_path):
    """A link takes nothing from others, wherever it leads; a whole corpus beside a link to it is one."""
    touch(tmp_path, [*FILES, "shared/bob/1.wav", "shared/bob/2.wav", "shared/three.wav"])
    link(tmp_path / "train/bonafide/bob", tmp_path / "shared/bob")
    link(tmp_path / "train/spoof/one.wav", tmp_path / "shared/three.wav")
    linked = ["train/bonafide/bob/1.wav", "train/bonafide/bob/2.wav", "train/spoof/one.wav"]
    table = corpora.read(tmp_path, "folder")
    assert set(table["path"]) == {*FILES, *linked} - {"eval/spoof/vits/notes.txt"}
    assert (table.loc[table["path"].isin(linked[:2]), "speaker"] == "bob").all()


@few
def test_link_to_a_corpus(unpack):
    root = unpack("asvspoof2019_la", "for_norm", move=lambda path: f"downloads/{path}")
    for name in "for-norm", "LA":
        link(root / name, root / "downloads" / name)
    assert corpora.read(root, "for_norm")["path"].str.startswith("downloads/for-norm/").all()
    assert len(corpora.read(root, "asvspoof2019_la")) == 9


def test_not_taken(tmp_path):
    others = ["train/bonafide/ann/1.txt", "train/spoof/espeak/README", "train/bonafide/ann/2.TXT"]
    outside = ["train/real/1.wav", "bonafide/ann/2.wav", "eval/3.wav"]
    takes = [f"train/bonafide/ann/{ending}.{ending}" for ending in "w64 sph wave oga aifc snd webm".split()]
    touch(tmp_path, [*FILES, *others, *outside, *takes, "elsewhere/4.wav"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        table = corpora.read(tmp_path, "folder")
    assert set(table["path"]) == {*FILES, *takes} - {"eval/spoof/vits/notes.txt"}
    assert [str(warning.message) for warning in caught] == [
        "files not taken: 4, as their names do not end like a recording's (.txt 2, .TXT 1, none 1): "
        "eval/spoof/vits/notes.txt, train/bonafide/ann/1.txt, train/bonafide/ann/2.TXT, train/spoof/espeak/README",
        "recordings not taken: 3, as they lie outside the folders that docs/data.md names: "
        "bonafide/ann/2.wav, eval/3.wav, train/real/1.wav",
    ]


def test_names_that_are_not_unicode(tmp_path):
    table = corpora.read(touch(tmp_path, FILES), "folder")
    for name in (b"train/bonafide/ann/caf\xe9.wav", b"eval/spoof/\xff/5.wav"):
        path = os.path.join(os.fsencode(tmp_path), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "x").close()
    with pytest.warns(UserWarning, match=r"not taken: 2, as .*; rename them: eval/spoof/\\xff, train.*/caf\\xe9.wav$"):
        assert corpora.read(tmp_path, "folder").equals(table)


@pytest.mark.parametrize("path", ["audio/d.flac", "./audio//d.flac", "linked/d.flac", "link.flac"])
def test_leaks(tmp_path, path):
    """A recording in two splits, or both classes, by whatever path."""
    link(write(tmp_path, ROWS) / "linked", tmp_path / "audio")
    link(tmp_path / "link.flac", tmp_path / "audio/d.flac")
    row = {"utt_id": "0", "path": path, "label": "spoof", "split": "train", "attack": "y"}
    write(tmp_path, [*ROWS, row])
    assert len(corpora.read(tmp_path)) == 6  # it may count twice
    for change in {"split": "eval", "condition": "known"}, {"label": "bonafide", "attack": ""}:
        write(tmp_path, [*ROWS, row | change])
        found = row | change
        assert refused(tmp_path) == (
            f"ROOT/protocol.csv:7: 0 ({found['split']}, {found['label']}) is the same recording as d (train, spoof, "
            f"protocol.csv:5), {path}: a recording belongs to one split and one class; leave out one of them"
        )


def test_leaks_by_folders(tmp_path):
    link(touch(tmp_path, FILES) / "eval/bonafide/ann", tmp_path / "train/bonafide/ann")
    assert refused(tmp_path, "folder").startswith("ROOT: train-bonafide-ann-1 (train, bonafide) is the same recording")


def test_folder_that_cannot_be_read(tmp_path, monkeypatch):
    touch(tmp_path, FILES)
    scandir = os.scandir

    def denied(path):
        if str(path).endswith("vits"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    assert refused(tmp_path, "folder") == "ROOT/eval/spoof/vits: cannot be read (Permission denied)"


def test_plain_folder(tmp_path):
    names = ["bonafide/ann/1.wav", "bonafide/2.wav", "spoof/vits/deep/3.wav", "spoof/4.flac", "other/5.wav"]
    table = corpora.read(touch(tmp_path, names), "folder").set_index("path")
    assert set(table.index) == set(names[:-1]) and set(table["split"]) == {"eval"}
    assert table.loc["bonafide/ann/1.wav", "speaker"] == "ann"
    assert table.loc["spoof/vits/deep/3.wav", ["attack", "condition"]].tolist() == ["vits", "unseen"]
    touch(tmp_path, ["train/spoof/vits/1.wav", "__MACOSX/train/spoof/._1.wav", "train/spoof/.hidden.wav"])
    assert list(corpora.read(tmp_path, "folder")["path"]) == ["train/spoof/vits/1.wav"]
    os.symlink(tmp_path, tmp_path / "train/spoof/again")  # a circle
    assert list(corpora.read(tmp_path, "folder")["path"]) == ["train/spoof/vits/1.wav"]


@pytest.mark.parametrize("name, attack", [("dev/spoof/vits/7.wav", "vits"), ("dev/spoof/8.wav", "unnamed")])
def test_folder_refuses_attacks_of_dev_alone(tmp_path, name, attack):
    touch(tmp_path, [*FILES, name])
    with pytest.raises(UserError, match=f"dev and eval have the attack {attack}, train has not"):
        corpora.read(tmp_path, "folder")
    touch(tmp_path, [name.replace("dev", "train")])
    table = corpora.read(tmp_path, "folder")
    assert set(table.loc[(table["split"] == "eval") & (table["attack"] == attack), "condition"]) == {"known"}


def test_narrow(tmp_path):
    names = [f"narrow/{name}.wav" for name in ("bonafide/ann/1", "spoof/espeak/2", "spoof/vits/3", "spoof/hts/4")]
    touch(tmp_path, [*FILES, *names, "dev/spoof/hts/5.wav"])
    table = corpora.read(tmp_path, "folder").set_index("path")
    assert table.loc[names, "split"].tolist() == ["narrow"] * 4
    assert table.loc[names, "condition"].tolist() == ["", "known", "unseen", ""]  # dev alone has hts
    settings = {"format": "folder", "eval_format": "", "bonafide": "", "subset": "eval"}
    assert len(corpora.from_settings(tmp_path, settings)[0]) == len(table)
    counted = corpora.summary(table.reset_index().assign(seconds=1.0))
    assert counted.tail(2)[["split", "label", "utterances"]].to_numpy().tolist() == [
        ["narrow", "bonafide", 1], ["narrow", "spoof", 3]
    ]  # fmt: skip
    # a protocol beside it gives eval and narrow, the folders train and dev
    rows = [{"utt_id": "n", "path": names[1], "label": "spoof", "split": "narrow", "attack": "espeak"}]
    rows += [{"utt_id": "e", "path": names[2], "label": "bonafide", "split": "eval"}]
    pd.DataFrame(rows).to_csv(tmp_path / "protocol.csv", index=False)
    tested = corpora.read(tmp_path, "folder", eval_format="protocol")
    assert tested.loc[tested["split"] == "narrow", "utt_id"].tolist() == ["n"]
    assert not set(tested["path"]) & {names[0], names[3], FILES[3]}
    for path in (tmp_path / "narrow").rglob("*.wav"):
        path.unlink()
    (tmp_path / "protocol.csv").unlink()
    _, about = corpora.from_settings(tmp_path, settings)
    assert not [line for line in about if "narrow" in line]


@pytest.mark.parametrize(
    "attack, condition, message",
    [
        ("y", "unseen", "said to be unseen, but train has its attack y"),
        ("x", "known", "said to be known, but train lacks its attack x"),
        ("z", "unseen", "dev and narrow have the attack z"),
        ("z", "", None),
        ("y", "known", None),
    ],
)
def test_narrow_conditions(tmp_path, attack, condition, message):
    row = {"path": "audio/n.flac", "label": "spoof", "split": "narrow", "attack": attack, "condition": condition}
    write(touch(tmp_path, ["audio/n.flac"]), [*ROWS, row | {"utt_id": "n"}])
    if message:
        with pytest.raises(UserError, match=message):
            corpora.read(tmp_path)
    else:
        table = corpora.read(tmp_path).set_index("utt_id")
        assert table.loc["n", ["split", "condition"]].tolist() == ["narrow", condition]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"label": "fake"}, "protocol.csv:2: label of b is 'fake'"),
        ({"split": "test"}, "protocol.csv:2: split of b is 'test'"),
        ({"label": "bonafide"}, "protocol.csv:2: b is bonafide, but has the attack x"),
        ({"utt_id": "a"}, r"protocol.csv:\d: utt_id a occurs more than once: as audio/b.flac .protocol.csv:2. and as"),
        ({"utt_id": " "}, "path 'audio/b.flac' has no utt_id"),
        ({"condition": ""}, "its condition must be known or unseen"),
        ({"path": "../../etc/passwd"}, "b: the path '../../etc/passwd' leaves the corpus"),
        ({"path": "/etc/passwd"}, "b: the path '/etc/passwd' leaves the corpus"),
        ({"path": ""}, "b: the path '' leaves the corpus"),
    ],
)
def test_refused(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        corpora.read(write(tmp_path, [ROWS[0] | change, *ROWS[1:]]), "protocol")


@pytest.mark.parametrize(
    "condition, attack, message",
    [
        ("unseen", "y", "b is said to be unseen, but train has its attack y"),
        ("known", "x", "b is said to be known, but train lacks its attack x"),
        ("unseen", "z", "dev and eval have the attack z"),
        ("known", "z", "dev and eval have the attack z"),
    ],
)
def test_conditions(tmp_path, condition, attack, message):
    changed = [ROWS[0] | {"condition": condition, "attack": attack}, *ROWS[1:]]
    with pytest.raises(UserError, match=message):
        corpora.read(write(tmp_path, changed), "protocol")
    changed[0]["attack"] = ""  # a machine that nobody has named
    assert corpora.read(write(tmp_path, changed), "protocol").loc[1, "condition"] == condition


@pytest.mark.parametrize(
    "data, said",
    [
        (b"", "1: expected rows, found an empty file"),
        (b"\n\n", "1: expected rows, found an empty file"),
        (b"utt_id,path,label,split\n\xe9,a.wav,spoof,dev\n", "2: expected text in UTF-8, found the byte 0xe9"),
        (b"utt_id,path\n1,2\n1,2,3\n", "3: expected 2 fields (utt_id path), found 3: '1,2,3'"),
        (b"utt_id,path,label,split\n1,2\n", "2: expected 4 fields (utt_id path label split), found 2: '1,2'"),
        (b"utt_id,path,label,split\n", "2: expected rows below the header, found none"),
        (b"utt_id,path\n1,2\n", "1: lacks the column label"),
        (
            b'utt_id,path,label,split\n1,2,spoof,"dev\n3,4,spoof,eval\n',
            "3: expected a row of a csv table, found unexpected end of data",
        ),
        (
            b"utt_id,path,label,split,path\n1,2,spoof,dev,3\n",
            "1: a column is named 'path' a second time: utt_id, path, label, split, path",
        ),
        (
            b"utt_id,path,label,split,,\n1,2,spoof,dev,,note\n",
            "1: a column is named '' a second time: utt_id, path, label, split, , ",
        ),
    ],
)  # fmt: skip
def test_no_table(tmp_path, data, said):
    (tmp_path / "protocol.csv").write_bytes(data)
    assert refused(tmp_path) == f"ROOT/protocol.csv:{said}"


def test_empty_columns_and_rows_of_a_spreadsheet(tmp_path):
    expected = corpora.read(write(tmp_path, ROWS))
    path = tmp_path / "protocol.csv"
    lines = path.read_text().splitlines()
    path.write_text("".join(f"{line},,\r\n" for line in [*lines, "," * lines[0].count(",")]))
    assert corpora.read(tmp_path).equals(expected)


def test_refused_without_files(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        corpora.read(tmp_path / "nothing")
    with pytest.raises(UserError, match="did you mean 'protocol'"):
        corpora.read(tmp_path, "protocoll")
    with pytest.raises(UserError, match="protocol.csv: not found"):
        corpora.read(tmp_path)
    with pytest.raises(UserError, match="holds no utterances"):
        corpora.read(tmp_path, "folder")


def test_measured(speech, speech_files):
    names = [*(path.name for path in speech_files), "README.md", "absent.wav"]
    table = corpora.measured(pd.DataFrame({"path": names}), speech)
    assert list(table["path"]) == names[:-2]
    assert table["seconds"].tolist() == [soundfile.info(path).duration for path in speech_files]


def test_summary(tmp_path):
    table = corpora.read(touch(tmp_path, FILES), "folder").assign(seconds=1800.0)
    assert corpora.summary(table).to_numpy().tolist() == [
        ["train", "bonafide", 1, 1, 0, 0, 0.5],
        ["train", "spoof", 1, 0, 0, 1, 0.5],
        ["dev", "bonafide", 1, 0, 0, 0, 0.5],
        ["eval", "bonafide", 1, 1, 0, 0, 0.5],
        ["eval", "spoof", 3, 0, 0, 3, 1.5],
    ]


def test_example(tmp_path):
    table = corpora.read(write(tmp_path, ROWS))
    assert list(corpora.example(table)["utt_id"]) == ["a", "b"]  # nothing was copied
    assert list(corpora.example(table[table["label"] == "spoof"])["utt_id"]) == ["b"]
    assert corpora.example(table[:0]).empty
    table.loc[[1, 2, 4], "pair_id"] = "set aside"  # copies of a recording that is not there
    assert list(corpora.example(table)["utt_id"]) == ["a", "b"]
    table.loc[3, "pair_id"] = "a"
    assert list(corpora.example(table).index) == [0, 3]
    more = table.assign(utt_id="2" + table["utt_id"], pair_id=["", "2a", "2a", "", ""])
    assert list(corpora.example(pd.concat([table, more]))["utt_id"]) == ["2a", "2b", "2c"]


def test_differences_from_reference(speech, speech_files, tmp_path):
    rows = [{"utt_id": path.stem, "path": path.name, "label": "bonafide", "split": "train"} for path in speech_files]
    settings = dict(kind="mfcc", sample_rate=16000, n_mfcc=20, n_fft=512, hop_length=160, n_mels=64, deltas=2)
    table = pd.DataFrame(rows).reindex(columns=corpora.COLUMNS, fill_value="")
    store.extract(table, speech, tmp_path / "features", settings)
    opened = store.Store(tmp_path / "features")
    assert len(rows) == 22
    few, reference = differences_from_reference(opened, speech, 3)
    assert reference == "librosa"
    assert list(few.index) == [rows[0]["utt_id"], rows[10]["utt_id"], rows[-1]["utt_id"]]
    every, _ = differences_from_reference(opened, speech, 1000)
    assert list(every.index) == list(opened.table["utt_id"]) and every.max() < 1e-3
    shard = np.load(tmp_path / "features/shard-00000.npy")
    shard[5, 7] += 1  # a frame of the first recording
    np.save(tmp_path / "features/shard-00000.npy", shard)
    about = json.loads((tmp_path / "features/meta.json").read_text())
    about["checksums"]["shard-00000.npy"] = checksum(tmp_path / "features/shard-00000.npy")  # as if written so
    (tmp_path / "features/meta.json").write_text(json.dumps(about))
    broken, _ = differences_from_reference(store.Store(tmp_path / "features"), speech, 3)
    assert broken.iloc[0] > 0.9
    other = dict(kind="logspec", sample_rate=16000, n_fft=512, hop_length=160, n_bands=40, deltas=1, normalise="cmn")
    store.extract(table, speech, tmp_path / "other", other)
    alone, reference = differences_from_reference(store.Store(tmp_path / "other"), speech, 1000)
    assert reference == "the front-end on each recording alone" and len(alone) == 22 and alone.max() < 1e-3
