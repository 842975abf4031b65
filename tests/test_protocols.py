"""aasist_lib.corpora.protocols

| what | test |
|---|---|
| every layout, with rows as they are in the official files | test_layouts |
| tabs for spaces, line ends of Windows, a byte order mark and an empty last line make no difference | test_same |
| every kind of wrong row: file, line, what was expected, what stood there | test_wrong_rows |
| of several wrong rows the first is named | test_first |
| a file that is missing, empty or not text | test_no_text |
| csv: quotes, rows over several lines | test_csv |
"""

import re

import pytest

from aasist_lib.base.errors import UserError
from aasist_lib.corpora import protocols

ROWS = {
    "asvspoof2019": ["LA_0039 LA_E_2834763 - A11 spoof", "LA_0030 LA_E_5849185 - - bonafide"],
    "asvspoof2021_la": [
        "LA_0009 LA_E_9332881 alaw ita_tx A07 spoof notrim eval",
        "LA_0031 LA_E_6866159 none loc_tx bonafide bonafide trim hidden",
    ],
    "asvspoof2021_df": [
        "LA_0023 DF_E_2000011 nocodec asvspoof A14 spoof notrim progress traditional_vocoder - - - -",
        "TEF2 DF_E_2000013 low_m4a vcc2020 Task1-team20 spoof notrim eval neural_vocoder Task1 team20 FF E",
        "TEM2 DF_E_2000014 oggm4a vcc2020 bonafide bonafide notrim eval bonafide - - M E",
    ],
    "asvspoof5": [
        "E_1607 E_0009538969 M C05 2 E_0009486171 AC1 A26 spoof -",
        "D_0461 D_0000000190 M - - - - bonafide bonafide -",
    ],
    "in_the_wild": ["file,speaker,label", "0.wav,Alec Guinness,spoof", "1.wav,Barack Obama,bona-fide"],
}  # fmt: skip
FOUND = {  # utt_id, label, speaker, attack, codec, line
    "asvspoof2019": [
        ("LA_E_2834763", "spoof", "LA_0039", "A11", "", 1),
        ("LA_E_5849185", "bonafide", "LA_0030", "", "", 2),
    ],
    "asvspoof2021_la": [
        ("LA_E_9332881", "spoof", "LA_0009", "A07", "alaw", 1),
        ("LA_E_6866159", "bonafide", "LA_0031", "", "none", 2),
    ],
    "asvspoof2021_df": [
        ("DF_E_2000011", "spoof", "LA_0023", "A14", "nocodec", 1),
        ("DF_E_2000013", "spoof", "TEF2", "Task1-team20", "low_m4a", 2),
        ("DF_E_2000014", "bonafide", "TEM2", "", "oggm4a", 3),
    ],
    "asvspoof5": [
        ("E_0009538969", "spoof", "E_1607", "A26", "C05", 1),
        ("D_0000000190", "bonafide", "D_0461", "", "none", 2),
    ],
    "in_the_wild": [("0.wav", "spoof", "Alec Guinness", "", "", 2), ("1.wav", "bonafide", "Barack Obama", "", "", 3)],
}  # fmt: skip
every = pytest.mark.parametrize("layout", protocols.LAYOUTS)


@pytest.fixture
def read(tmp_path):
    def read(data, layout):
        path = tmp_path / "keys.txt"
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return protocols.read(path, layout)

    return read


@pytest.fixture
def refused(read, tmp_path):
    def refused(data, layout) -> str:
        with pytest.raises(UserError) as error:
            read(data, layout)
        assert "\n" not in str(error.value)
        return str(error.value).replace(f"{tmp_path}/", "")

    return refused


def rows(table):
    return [*table[["utt_id", "label", "speaker", "attack", "codec", "line"]].itertuples(index=False, name=None)]


@every
def test_layouts(layout, read):
    table = read("".join(f"{row}\n" for row in ROWS[layout]), layout)
    assert rows(table) == FOUND[layout]
    assert {str(dtype) for name, dtype in table.dtypes.items() if name != "line"} == {"str"}
    if layout == "asvspoof2021_df":
        assert table.loc[1, ["subset", "trim", "vocoder", "task", "team", "gender", "language", "source"]].tolist() == [
            "eval", "notrim", "neural_vocoder", "Task1", "team20", "FF", "E", "vcc2020"
        ]  # fmt: skip


@every
@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.rstrip("\n"),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text + "\n",
        lambda text: text if "," in text else text.replace(" ", "\t"),
        lambda text: text if "," in text else "  " + text.replace(" ", " \t ").replace("\n", "  \n"),
    ],
    ids=["no last line end", "windows", "mark and empty line", "tabs", "many spaces"],
)
def test_same(layout, change, read):
    text = "".join(f"{row}\n" for row in ROWS[layout])
    assert read(change(text), layout).equals(read(text, layout))


WRONG = {
    "too few fields": (
        "asvspoof2019", 2, "LA_0030 LA_E_5849185 - bonafide",
        "expected 5 fields (speaker utt_id environment attack label), found 4: 'LA_0030 LA_E_5849185 - bonafide'",
    ),
    "too many fields": (
        "asvspoof2019", 1, "LA_0039 LA_E_2834763 - A11 spoof A11",
        "expected 5 fields (speaker utt_id environment attack label), found 6: 'LA_0039 LA_E_2834763 - A11 spoof A11'",
    ),
    "an empty line": (
        "asvspoof2019", 1, "", "expected 5 fields (speaker utt_id environment attack label), found 0: ''"
    ),
    "label": (
        "asvspoof2019", 2, "LA_0030 LA_E_5849185 - - genuine",
        "expected bonafide or spoof as the label of LA_E_5849185, found 'genuine'",
    ),
    "bona fide with an attack": (
        "asvspoof2019", 2, "LA_0030 LA_E_5849185 - A07 bonafide",
        "expected no attack (- or bonafide) of LA_E_5849185, which is bonafide, found 'A07'",
    ),
    "spoof without an attack": (
        "asvspoof2019", 1, "LA_0039 LA_E_2834763 - - spoof",
        "expected an attack of LA_E_2834763, which is a spoof, found '-'",
    ),
    "spoof with the attack bonafide": (
        "asvspoof5", 1, "E_1607 E_0009538969 M C05 2 E_0009486171 AC1 bonafide spoof -",
        "expected an attack of E_0009538969, which is a spoof, found 'bonafide'",
    ),
    "twice": (
        "asvspoof2019", 2, "LA_0030 LA_E_2834763 - - bonafide",
        "expected every utterance once, found LA_E_2834763 again, which line 1 has",
    ),
    "codec of LA": (
        "asvspoof2021_la", 1, "LA_0009 LA_E_9332881 mp3 ita_tx A07 spoof notrim eval",
        "expected none or alaw or pstn or g722 or ulaw or gsm or opus or - as the codec of LA_E_9332881, found 'mp3'",
    ),
    "trim": (
        "asvspoof2021_la", 1, "LA_0009 LA_E_9332881 alaw ita_tx A07 spoof no eval",
        "expected notrim or trim as the trim of LA_E_9332881, found 'no'",
    ),
    "subset": (
        "asvspoof2021_la", 2, "LA_0031 LA_E_6866159 none loc_tx bonafide bonafide trim test",
        "expected eval or progress or hidden as the subset of LA_E_6866159, found 'test'",
    ),
    "codec of DF": (
        "asvspoof2021_df", 3, "TEM2 DF_E_2000014 alaw vcc2020 bonafide bonafide notrim eval bonafide - - M E",
        "expected nocodec or low_mp3 or high_mp3 or low_m4a or high_m4a or low_ogg or high_ogg or mp3m4a or oggm4a or "
        "- as the codec of DF_E_2000014, found 'alaw'",
    ),
    "LA's keys for DF's": (
        "asvspoof2021_df", 1, "LA_0009 LA_E_9332881 alaw ita_tx A07 spoof notrim eval",
        "expected 13 fields (speaker utt_id codec source attack label trim subset vocoder task team gender language), "
        "found 8: 'LA_0009 LA_E_9332881 alaw ita_tx A07 spoof notrim eval'",
    ),
    "gender": (
        "asvspoof5", 2, "D_0461 D_0000000190 X - - - - bonafide bonafide -",
        "expected F or M or - as the gender of D_0000000190, found 'X'",
    ),
    "header": (
        "in_the_wild", 1, "name,speaker,label", "expected the header 'file,speaker,label', found 'name,speaker,label'"
    ),
    "bonafide without its hyphen": (
        "in_the_wild", 3, "1.wav,Barack Obama,bonafide",
        "expected bona-fide or spoof as the label of 1.wav, found 'bonafide'",
    ),
    "a comma too many": (
        "in_the_wild", 2, "0.wav,Guinness, Alec,spoof",
        "expected 3 fields (file speaker label), found 4: '0.wav,Guinness, Alec,spoof'",
    ),
    "no name": ("in_the_wild", 2, ",Alec Guinness,spoof", "expected a name, found ''"),
}  # fmt: skip


@pytest.mark.parametrize("layout, line, row, said", WRONG.values(), ids=WRONG)
def test_wrong_rows(layout, line, row, said, refused):
    text = list(ROWS[layout])
    text[line - 1] = row
    assert refused("".join(f"{row}\n" for row in text), layout) == f"keys.txt:{line}: {said}"


def test_first(refused):
    text = "s a - A01 fake\ns b - - spoof\ns a - - bonafide\n"
    assert refused(text, "asvspoof2019").startswith("keys.txt:1: expected bonafide or spoof")


@every
def test_no_text(layout, read, refused, tmp_path):
    assert refused("", layout) == refused("\n\r\n", layout) == "keys.txt:1: expected rows, found an empty file"
    data = "".join(f"{row}\n" for row in ROWS[layout]).encode()
    assert refused(data + b"\xe9t\xe9\n", layout) == (
        f"keys.txt:{len(ROWS[layout]) + 1}: expected text in UTF-8, found the byte 0xe9"
    )
    assert refused(data.replace(b"spoof", b"sp\0of", 1), layout).endswith("expected text, found the byte 0x00")
    assert refused(data.replace(b"spoof", b"sp\rof", 1), layout).endswith("expected text, found the byte 0x0d")
    with pytest.raises(UserError, match=re.escape("cannot be read (No such file or directory)")):
        protocols.read(tmp_path / "nothing", layout)


def test_csv(read, refused):
    head = "file,speaker,label\n"
    table = read(f'{head}0.wav,"Guinness, ""Alec""",spoof\n1.wav,"two\nlines",spoof\n2.wav,x,spoof\n', "in_the_wild")
    assert table["speaker"].tolist() == ['Guinness, "Alec"', "two\nlines", "x"]
    assert table["line"].tolist() == [2, 4, 5]
    assert refused(head, "in_the_wild") == "keys.txt:2: expected rows below the header, found none"
