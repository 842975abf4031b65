"""aasist_lib.base.progress

| what | test |
|---|---|
| a bar on the terminal of the person who waits; nothing where a parent process counts | test_bar |
| in a log: lines with what is done, at hand and left, even while no step ends; none for short work | test_lines |
| jobs in processes: those at hand are named | test_at_hand |
| what an earlier run did tells nothing of the time left; steps may cost unequally | test_left |
"""

import os
import pty
import re
import select
import time

import pytest

from aasist_lib.base import progress as module
from aasist_lib.base.progress import at_hand, progress


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.delenv("AASIST_TERMINAL", raising=False)
    monkeypatch.setattr(module, "FIRST", 0.02)
    monkeypatch.setattr(module, "EVERY", 0.02)


def said(capfd, pattern, seconds=10):
    """Waits for a line; returns all that came."""
    out, end = "", time.monotonic() + seconds
    while not re.search(pattern, out, re.MULTILINE):
        assert time.monotonic() < end, out
        time.sleep(0.01)
        out += capfd.readouterr().err
    return out


def test_bar(monkeypatch, capfd):
    monkeypatch.setattr(module, "FIRST", 0)
    ours, theirs = pty.openpty()
    monkeypatch.setenv("AASIST_TERMINAL", os.ttyname(theirs))
    assert sum(progress([1, 2, 3], desc="listening")) == 6
    with progress(total=3, desc="again") as bar:
        bar.skip(2)
        bar.set_postfix_str("hifigan")
        bar.update(cost=5)
    drawn = ""
    while not re.search("listening.*again: .* 2/3 .*, hifigan", drawn, re.DOTALL):
        assert select.select([ours], [], [], 10)[0], drawn
        drawn += os.read(ours, 10000).decode()
    monkeypatch.setenv("AASIST_TERMINAL", module.NOBODY)
    with progress(total=2, desc="listening") as bar:
        bar.skip(1)
        bar.update()
        time.sleep(0.05)
    assert capfd.readouterr() == ("", "")
    os.close(ours), os.close(theirs)


def test_lines(hasty, monkeypatch, capfd):
    with progress(total=17681, desc="corpus", unit="recording") as bar:
        said(capfd, r"^corpus: 0 of 17,681 recordings, 0 s so far$")
        bar.update(7310)
        bar.set_postfix_str("hifigan")
        said(capfd, r"^corpus: 7,310 of 17,681 recordings, hifigan, about \d+ s left$")
        bar.update(17681 - 7310)
    said(capfd, r"^corpus: 17,681 of 17,681 recordings in \d s$")
    with progress(desc="waiting"):
        said(capfd, r"^waiting: 0 s so far$")
    for _ in progress((step for step in "abc"), desc="reading", unit="line"):
        said(capfd, r"^reading: (1 line, )?\d s so far$")
        break
    capfd.readouterr()
    time.sleep(0.1)
    assert capfd.readouterr() == ("", "")  # all have ended
    monkeypatch.setattr(module, "FIRST", 5)
    assert list(progress("ab")) == ["a", "b"]
    assert capfd.readouterr() == ("", "")


def test_left(hasty, monkeypatch):
    monkeypatch.setenv("AASIST_TERMINAL", module.LOG)
    with progress(total=100, cost=1000) as bar:
        bar.skip(50, cost=100)
        bar.start -= 240
        bar.update(10, cost=600)  # the rest costs half as much
        assert bar._left() == "about 2 min left"
        bar.update(40, cost=300)
        assert bar._left() == "about 0 s left"
    with progress(total=100) as bar:
        bar.skip(50)
        bar.start -= 7200
        bar.update(25)
        assert bar._left() == "about 2.0 h left"


def test_at_hand(hasty):
    with progress(total=3) as bar:
        named = [(job, bar.doing) for job in at_hand(bar, ["b", "a", "c"], ["a", "b", "c"], 2, str.upper)]
    assert named == [("b", "A and C"), ("a", "C"), ("c", "")]
