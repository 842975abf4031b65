"""Score files and keys of the field: what is tested.

| test | what must hold |
|---|---|
| formats | the very lines that the packages of ASVspoof 2019, 2021 and 5 read and write are understood |
| names with spaces | wherever fields can still be told apart |
| strictness | whatever is wrong is one line that names the file and the line in it |
| subsets | "eval" of 2021 by default; scores of other trials are left out and counted |
| t-DCF | the reference's value, and only with ASV scores that belong to the corpus |
| writing | what was written is read back, and measures the same |
"""

import numpy as np
import pandas as pd
import pytest

from aasist_lib import evaluation, metrics
from aasist_lib.base.errors import UserError
from aasist_lib.evaluation import scorefiles

KEYS_2019 = """\
LA_0039 LA_E_2834763 - A11 spoof
LA_0030 LA_E_5849185 - - bonafide
LA_0030 LA_E_1 - A07 spoof
"""
KEYS_LA = """\
LA_0009 LA_E_9332881 alaw ita_tx A07 spoof notrim eval
LA_0031 LA_E_6866159 none loc_tx bonafide bonafide notrim eval
LA_0031 LA_E_5464494 pstn mad_tx A10 spoof notrim progress
LA_0020 LA_E_1 opus mad_tx bonafide bonafide notrim progress
"""
KEYS_DF = """\
LA_0023 DF_E_2000011 nocodec asvspoof A14 spoof notrim eval traditional_vocoder - - - -
TEF2 DF_E_2000013 low_m4a vcc2020 bonafide bonafide notrim eval bonafide Task2 - M E
"""
KEYS_5 = """\
E_1607 E_0009538969 M C05 2 E_0009486171 AC1 A26 spoof -
D_0461 D_0000000190 M - - - - bonafide bonafide -
"""
KEYS_5_TSV = "filename\tcm-label\nE_0009538969\tspoof\nD_0000000190\tbonafide\n"
KEYS_CSV = "utt_id,label,attack\na,spoof,tts\nb,bonafide,\n"
SCORES_2019 = "LA_E_2834763 A11 spoof -2.5\nLA_E_1 A07 spoof 1e-1\nLA_E_5849185 - bonafide 3\n"


@pytest.fixture
def read(tmp_path):
    def read(scores, keys, format, subset=None):
        (tmp_path / "scores").write_text(scores)
        (tmp_path / "keys").write_text(keys)
        return scorefiles.read(tmp_path / "scores", tmp_path / "keys", format, subset)

    return read


@pytest.fixture
def refused(read, tmp_path):
    def refused(*arguments, **options) -> str:
        with pytest.raises(UserError) as error:
            read(*arguments, **options)
        assert "\n" not in str(error.value)
        return str(error.value).replace(f"{tmp_path}/", "")

    return refused


def rows(trials, *columns):
    return [tuple(row) for row in trials.table[[*columns]].itertuples(index=False)]


def test_2019(read):
    for scores in (SCORES_2019, "LA_E_5849185 3\nLA_E_2834763 -2.5\nLA_E_1 0.1"):
        trials = read(scores, KEYS_2019, "asvspoof2019")
        assert rows(trials, "utt_id", "label", "speaker", "attack", "llr") == [
            ("LA_E_2834763", "spoof", "LA_0039", "A11", -2.5),
            ("LA_E_5849185", "bonafide", "LA_0030", "", 3.0),
            ("LA_E_1", "spoof", "LA_0030", "A07", 0.1),
        ]
        assert (trials.layout, trials.subset, trials.left_out) == ("asvspoof2019", "", 0)


def test_2021_la_and_its_subsets(read, refused):
    scores = "LA_E_9332881 -1\nLA_E_5464494 -2\nLA_E_6866159 1.5\nLA_E_1 7\n"
    trials = read(scores, KEYS_LA, "asvspoof2021")
    assert rows(trials, "utt_id", "label", "attack", "codec", "llr") == [
        ("LA_E_9332881", "spoof", "A07", "alaw", -1.0),
        ("LA_E_6866159", "bonafide", "", "none", 1.5),
    ]
    assert (trials.layout, trials.subset, trials.left_out) == ("asvspoof2021_la", "eval", 2)
    assert read(scores, KEYS_LA, "asvspoof2021", "progress").table["utt_id"].tolist() == ["LA_E_5464494", "LA_E_1"]
    assert (len(read(scores, KEYS_LA, "asvspoof2021", "all").table)) == 4
    assert "no trial belongs to the subset hidden" in refused(scores, KEYS_LA, "asvspoof2021", "hidden")
    assert "--subset test: not one of eval, progress" in refused(scores, KEYS_LA, "asvspoof2021", "test")
    assert "does not say which" in refused(SCORES_2019, KEYS_2019, "asvspoof2019", "eval")


def test_2021_df_is_told_by_its_columns(read, refused):
    trials = read("DF_E_2000011 -1\nDF_E_2000013 1\n", KEYS_DF, "asvspoof2021")
    assert rows(trials, "label", "attack", "codec") == [("spoof", "A14", "nocodec"), ("bonafide", "", "low_m4a")]
    assert trials.layout == "asvspoof2021_df"
    assert "keys:1: expected 8 columns (LA) or 13 (DF), found 5" in refused("a 1", KEYS_2019, "asvspoof2021")


@pytest.mark.parametrize("keys, attacks", [(KEYS_5, ["A26", ""]), (KEYS_5_TSV, ["", ""])])
def test_5(read, keys, attacks):
    trials = read("filename\tcm-score\nD_0000000190\t2.25\nE_0009538969\t-4\n", keys, "asvspoof5")
    assert rows(trials, "utt_id", "label", "llr") == [
        ("E_0009538969", "spoof", -4.0),
        ("D_0000000190", "bonafide", 2.25),
    ]
    assert trials.table["attack"].tolist() == attacks


def test_csv_takes_llr_before_score_and_parts_by_split(read, refused):
    table = "utt_id,split,label,condition,score,llr\na,dev,spoof,,9,-1\nb,dev,bonafide,,9,2\nc,eval,spoof,known,9,-2\n"
    trials = read(table, table, "csv", "dev")
    assert rows(trials, "utt_id", "llr") == [("a", -1.0), ("b", 2.0)] and trials.left_out == 1
    assert read(table, table, "csv").subset == "all"
    assert read(table.replace("dev", "eval"), table.replace("dev", "eval"), "csv").subset == "eval"
    assert read("score,utt_id\n-3,a\n4,b\n", KEYS_CSV, "csv").table["llr"].tolist() == [-3.0, 4.0]
    assert read("utt_id,llr,,\na,1,,\nb,2,,\n,,,\n", KEYS_CSV, "csv").table["llr"].tolist() == [1.0, 2.0]
    for close in "", '"':  # a quote that swallows rows
        keys = f'utt_id,label,codec\na,spoof,"x\nb,bonafide,x{close}y\n'
        assert "keys:3: not a row of a table" in refused("utt_id,llr\na,1\nb,2\n", keys, "csv")
    assert "a column is named 'llr' a second time" in refused("utt_id,llr,llr\na,1,2\n", KEYS_CSV, "csv")
    assert "scores:1: expected a header with utt_id and llr or score" in refused("id,llr\na,1\n", KEYS_CSV, "csv")
    assert "keys:1: expected a header with utt_id and label" in refused(table, "utt_id,truth\na,spoof\n", "csv")
    assert "keys:3: expected bonafide or spoof, found 'real'" in refused(
        table, "utt_id,label\na,spoof\nb,real\n", "csv"
    )


@pytest.mark.parametrize(
    "format, text",
    [
        ("asvspoof2019", "my take 1 A07 spoof -1\nit's  2 - bonafide 2\n"),
        ("asvspoof2019", "my take 1 -1\nit's  2 2\n"),
        ("asvspoof2021", "my take 1 -1\nit's  2 2\n"),
        ("asvspoof2021", "\ufeffmy take 1\t-1 \r\nit's  2\t2\r\n\r\n"),
        ("asvspoof5", "filename\tcm-score\nmy take 1\t-1\nit's  2\t2\n"),
        ("csv", 'utt_id,llr\n"my take 1",-1\nit\'s  2,2\n'),
    ],
)
def test_names_with_spaces(tmp_path, format, text):
    (tmp_path / "scores").write_bytes(text.encode())
    table = scorefiles.read_scores(tmp_path / "scores", format)
    assert table["utt_id"].tolist() == ["my take 1", "it's  2"]
    assert table["llr"].tolist() == [-1, 2]


def test_a_trial_scored_twice(refused):
    """Even with the same score: it is not known what else went wrong where the file was made."""
    assert (
        refused("a 1\nb 2\na 1\n", KEYS_LA, "asvspoof2021")
        == "scores:3: a is scored a second time; line 1 has it first"
    )
    message = refused("filename\tcm-score\na\t1\na\t2\n", KEYS_5, "asvspoof5")
    assert message == "scores:3: a is scored a second time; line 2 has it first"
    assert "keys:4: " in refused(SCORES_2019, KEYS_2019 + KEYS_2019, "asvspoof2019")
    assert refused("utt_id,llr\na,1\nb,1\n", KEYS_CSV + "a,spoof,tts\n", "csv").startswith("keys:4: a ")


def test_trials_without_a_score(refused):
    keys = "utt_id,label\n" + "".join(f"u{i},spoof\n" for i in range(8))
    assert refused("utt_id,llr\nu3,1\n", keys, "csv") == (
        "scores: no score for 7 of 8 trials of keys: u0 (line 2), u1 (line 3), u2 (line 4), u4 (line 6), u5 (line 7) "
        "and 2 more"
    )
    message = refused("utt_id,llr\nU3.wav,1\n", keys, "csv")
    assert "not one trial" in message and "'u0'" in message and "'U3.wav'" in message


def test_scores_outside_the_subset_may_lack(read):
    assert len(read("LA_E_9332881 -1\nLA_E_6866159 1.5\n", KEYS_LA, "asvspoof2021").table) == 2


@pytest.mark.parametrize(
    "format, text, message",
    [
        ("asvspoof2019", "", "scores: empty"),
        ("csv", "\n \n", "scores: empty"),
        ("csv", "utt_id,llr\n", "scores: a header, and nothing below it"),
        ("asvspoof2021", "a 1\nb\n", "scores:2: expected UTT SCORE, found 'b'"),
        ("asvspoof2021", "a 1\n\nb 2\n", "scores:2: expected UTT SCORE, found ''"),
        ("asvspoof2019", "a - bonafide 1\nb 2\n", "scores:2: expected UTT ATTACK KEY SCORE, found 'b 2'"),
        ("asvspoof2019", "a - bonafide 1\nb A07 fake 2\n", "scores:2: expected bonafide or spoof, found 'fake'"),
        ("asvspoof2021", "a 1\nb 1,5\n", "scores:2: expected a number as the score, found '1,5'"),
        ("asvspoof2021", "a 1\nb 1_5\n", "scores:2: expected a number as the score, found '1_5'"),
        ("csv", "utt_id,llr\na,\n", "scores:2: expected a number as the score, found ''"),
        ("csv", "utt_id,llr\na,1\nb,2,3\n", "scores:3: expected 2 fields, as in the header, found 3"),
        ("asvspoof5", "a\t1\n", "scores:1: expected a header with filename and cm-score, found a, 1"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(refused, format, text, message):
    keys = {"asvspoof2019": KEYS_2019, "asvspoof2021": KEYS_LA, "asvspoof5": KEYS_5, "csv": KEYS_CSV}[format]
    assert refused(text, keys, format) == message


def test_files_that_are_not_there_or_not_text(tmp_path):
    with pytest.raises(UserError, match="absent: cannot be read"):
        scorefiles.read_scores(tmp_path / "absent", "csv")
    (tmp_path / "scores").write_bytes(b"a 1\n\xff\xfe 2\n")
    with pytest.raises(UserError, match="not a text file in UTF-8"):
        scorefiles.read_scores(tmp_path / "scores", "asvspoof2021")


def test_a_score_file_that_contradicts_the_keys(refused):
    wrong = SCORES_2019.replace("A07 spoof", "A08 spoof")
    assert refused(wrong, KEYS_2019, "asvspoof2019") == "scores:2: attack of LA_E_1 is A08 here, and A07 in keys:3"
    wrong = SCORES_2019.replace("A11 spoof", "- bonafide")
    assert refused(wrong, KEYS_2019, "asvspoof2019") == (
        "scores:1: label of LA_E_2834763 is bonafide here, and spoof in keys:1"
    )


@pytest.mark.parametrize("word", ["Bonafide", "real", "genuine"])
def test_a_label_that_is_not_known(refused, word):
    scores = "".join(reversed(SCORES_2019.splitlines(keepends=True)))
    message = f"expected bonafide or spoof, found '{word}'"
    assert refused(scores.replace("bonafide", word), KEYS_2019, "asvspoof2019") == f"scores:1: {message}"
    assert refused(SCORES_2019.replace("bonafide", word), KEYS_2019, "asvspoof2019") == f"scores:3: {message}"


def test_scores_that_are_not_finite_are_read_as_they_are(read):
    trials = read("utt_id,llr\na,nan\nb,-Inf\n", KEYS_CSV, "csv")
    assert np.isnan(trials.table["llr"][0]) and trials.table["llr"][1] == -np.inf


def test_scores_are_read_to_the_nearest_float(read):
    text = "0.1234567890123456789"
    assert read(f"utt_id,llr\na,{text}\nb,1\n", KEYS_CSV, "csv").table["llr"][0] == float(text)


def tandem_files(folder):
    """Files of the layout of 2019 with the detector and the verifier of the reference values."""
    classes = {
        "bonafide": np.random.RandomState(14).normal(2, 1, 1500),
        "spoof": np.random.RandomState(15).normal(-1.5, 1.5, 800),
    }
    keys, scores = [], []
    for label, values in classes.items():
        attack = "A07" if label == "spoof" else "-"
        keys += [f"S{i % 20} {label}{i} - {attack} {label}\n" for i in range(len(values))]
        scores += [f"{label}{i} {attack} {label} {x!r}\n" for i, x in enumerate(map(float, values))]
    asv = [f"bonafide target {float(x)!r}\n" for x in np.random.RandomState(11).normal(3, 1, 500)]
    asv += [f"bonafide nontarget {float(x)!r}\n" for x in np.random.RandomState(12).normal(-1, 1, 1000)]
    asv += [f"A07 spoof {float(x)!r}\n" for x in np.random.RandomState(13).normal(0.5, 1, 800)]
    paths = [folder / name for name in ("scores.txt", "la.cm.eval.trl.txt", "la.asv.eval.gi.trl.scores.txt")]
    for path, lines in zip(paths, (scores, keys, asv), strict=True):
        path.write_text("".join(lines))
    return paths


def test_tdcf_of_2019(tmp_path):
    scores, keys, asv = tandem_files(tmp_path)
    trials = scorefiles.read(scores, keys, "asvspoof2019")
    found = scorefiles.measure(trials, replicates=20, asv=scorefiles.read_asv(asv, trials, keys))["metrics"]["all"]
    assert found["min_tdcf_2021"] == pytest.approx(0.3500464554342001, abs=1e-12)
    assert found["min_tdcf_2019"] == pytest.approx(0.26442590849673203, abs=1e-12)
    assert found["min_tdcf_2021_low"] < found["min_tdcf_2021"] < found["min_tdcf_2021_high"]
    assert "min_tdcf_2021" not in scorefiles.measure(trials, replicates=0)["metrics"]["all"]


def test_asv_scores_of_something_else(tmp_path):
    scores, keys, asv = tandem_files(tmp_path)
    trials = scorefiles.read(scores, keys, "asvspoof2019")
    dev = asv.rename(tmp_path / "la.asv.dev.gi.trl.scores.txt")
    with pytest.raises(UserError, match="belongs to dev, and .* to eval"):
        scorefiles.read_asv(dev, trials, keys)
    other = tmp_path / "asv.txt"
    other.write_text(dev.read_text().replace("A07", "A01"))
    with pytest.raises(UserError, match="does not belong .* 'A01', 'A07'"):
        scorefiles.read_asv(other, trials, keys)
    other.write_text(dev.read_text() + "bonafide stranger 1\n")
    with pytest.raises(UserError, match="asv.txt:2301: expected target, nontarget or spoof, found 'stranger'"):
        scorefiles.read_asv(other, trials, keys)
    other.write_text(dev.read_text() + "bonafide target nan\n")
    with pytest.raises(UserError, match="asv.txt:2301: expected a number"):
        scorefiles.read_asv(other, trials, keys)
    foreign = scorefiles.Matched(trials.table, "asvspoof5", "", 0)
    with pytest.raises(UserError, match="belong to the corpus"):
        scorefiles.read_asv(dev, foreign, keys)


def test_tdcf_of_2021_la(tmp_path, read):
    trials = read("LA_E_9332881 -1\nLA_E_6866159 1.5\n", KEYS_LA, "asvspoof2021")
    spoken = [(f"LA_E_{x}", "bonafide", "target", x) for x in range(2, 12)]
    spoken += [(f"LA_E_{90 + x}", "bonafide", "nontarget", x) for x in range(-7, 3)]
    spoken += [("LA_E_9332881", "A07", "spoof", 3), ("LA_E_80", "A07", "spoof", -3)]
    keys, scores = tmp_path / "asv_keys.txt", tmp_path / "asv.txt"
    lines = [f"LA_0009 {name} alaw ita_tx {attack} {label} notrim eval" for name, attack, label, _ in spoken]
    keys.write_text("\n".join([*lines, "LA_0009 LA_E_9 alaw ita_tx A10 spoof notrim progress"]))
    scores.write_text("\n".join(f"LA_0009 {name} {score}" for name, *_, score in reversed(spoken)))
    rates = metrics.asv_rates(range(2, 12), [3, -3], range(-7, 3))
    assert scorefiles.read_asv(scores, trials, "keys", keys) == rates
    found = scorefiles.measure(trials, replicates=0, asv=rates)["metrics"]["all"]
    assert 0 < found["min_tdcf_2021"] < 0.1 and "min_tdcf_2019" not in found
    with pytest.raises(UserError, match="--asv-keys"):
        scorefiles.read_asv(scores, trials, "keys")
    scores.write_text("LA_0009 LA_E_2 1\n")
    with pytest.raises(UserError, match="no score for 21 trials"):
        scorefiles.read_asv(scores, trials, "keys", keys)


def some_scores(n=200):
    rng = np.random.default_rng(3)
    real = np.arange(n) % 3 == 0
    return pd.DataFrame(
        {
            "utt_id": [f"utt-{i}" for i in range(n)],
            "label": np.where(real, "bonafide", "spoof"),
            "speaker": [f"s{i % 7}" for i in range(n)],
            "attack": np.where(real, "", [f"tts{i % 4}" for i in range(n)]),
            "codec": [("", "opus", "g722")[i % 5 % 3] for i in range(n)],
            "condition": np.where(real, "", np.where(np.arange(n) % 2, "known", "unseen")),
            "llr": rng.normal(np.where(real, 1.5, -1), 1.5).round(6),
        }
    )


def test_measures_are_those_of_the_library(read):
    scores = some_scores()
    text = scores.to_csv(index=False)
    found = scorefiles.measure(read(text, text, "csv"), replicates=0)
    bonafide, spoof = evaluation.split_classes(scores)
    assert found["metrics"]["all"]["eer"] == metrics.eer(bonafide, spoof).value
    assert found["metrics"]["all"]["cllr"] == pytest.approx(metrics.cllr(bonafide, spoof))
    assert {"known", "unseen"} <= set(found["metrics"])
    of_attack = scores.loc[scores["attack"] == "tts1", "llr"]
    by_attack = found["by_attack"].set_index("attack")["eer"]
    assert by_attack["tts1"] == metrics.eer(bonafide, of_attack).value and len(by_attack) == 4
    opus = scores[scores["codec"] == "opus"]
    real, fake = evaluation.split_classes(opus)
    assert found["by_codec"].set_index("codec")["eer"]["opus"] == metrics.eer(real, fake).value
    cell = found["by_attack_and_codec"].set_index("attack")["opus"]["tts1"]
    assert cell == metrics.eer(real, opus.loc[opus["attack"] == "tts1", "llr"]).value


def test_intervals_say_what_was_drawn(read):
    scores = some_scores()
    for left_out, said in (
        ([], "speakers and attacks"),
        (["speaker"], "attacks"),
        (["speaker", "attack"], "single trials (too narrow"),
    ):
        text = scores.drop(columns=left_out).to_csv(index=False)
        assert scorefiles.measure(read(text, text, "csv"), replicates=5)["intervals_over"].startswith(said)


def test_scores_that_are_missing_do_not_count(read):
    scores = some_scores()
    text = scores.to_csv(index=False)
    with_nan = scores.assign(llr=scores["llr"].where(scores.index != 0)).to_csv(index=False, na_rep="nan")
    found = scorefiles.measure(read(with_nan, text, "csv"), replicates=0)["metrics"]["all"]
    rest = scores.iloc[1:].to_csv(index=False)
    assert found == scorefiles.measure(read(rest, rest, "csv"), replicates=0)["metrics"]["all"]


@pytest.mark.parametrize(
    "format, scores, keys",
    [
        ("asvspoof2019", "asvspoof2019.txt", "asvspoof2019_keys.txt"),
        ("asvspoof2021", "asvspoof2021.txt", "asvspoof2021_keys.txt"),
        ("asvspoof5", "asvspoof5.tsv", "asvspoof5_keys.tsv"),
    ],
)
def test_what_was_written_measures_the_same(tmp_path, format, scores, keys):
    table = some_scores()
    assert scorefiles.write_official(tmp_path / "official", table) == []
    trials = scorefiles.read(tmp_path / "official" / scores, tmp_path / "official" / keys, format)
    pd.testing.assert_frame_equal(trials.table[["utt_id", "label", "llr"]], table[["utt_id", "label", "llr"]])
    if format != "asvspoof5":  # where short keys hold no more than that
        pd.testing.assert_frame_equal(trials.table[["speaker", "attack"]], table[["speaker", "attack"]])
    found = scorefiles.measure(trials, replicates=0)["metrics"]["all"]
    assert found["eer"] == metrics.eer(*evaluation.split_classes(table)).value


def test_written_lines_are_those_of_the_packages(tmp_path):
    table = some_scores(2).assign(llr=[1.5, -2.0])
    scorefiles.write_official(tmp_path, table)
    assert (tmp_path / "asvspoof2019.txt").read_text() == "utt-0 - bonafide 1.500000\nutt-1 tts1 spoof -2.000000\n"
    assert (tmp_path / "asvspoof2019_keys.txt").read_text() == "s0 utt-0 - - bonafide\ns1 utt-1 - tts1 spoof\n"
    assert (tmp_path / "asvspoof2021.txt").read_text() == "utt-0 1.500000\nutt-1 -2.000000\n"
    assert (tmp_path / "asvspoof5.tsv").read_text() == "filename\tcm-score\nutt-0\t1.500000\nutt-1\t-2.000000\n"
    assert (tmp_path / "asvspoof5_keys.tsv").read_text() == "filename\tcm-label\nutt-0\tbonafide\nutt-1\tspoof\n"


def test_names_with_spaces_are_written_only_where_they_can_be_read(tmp_path):
    scorefiles.write_official(tmp_path, some_scores())
    table = some_scores()
    table.loc[5, "utt_id"] = "my take"
    notes = scorefiles.write_official(tmp_path, table)
    assert len(notes) == 4 and all("'my take'" in note for note in notes)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["asvspoof5.tsv", "asvspoof5_keys.tsv"]
    assert "my take\t" in (tmp_path / "asvspoof5.tsv").read_text()
