"""The news of a sweep, on stand-ins for the process: whoever waits for it does not hang with it."""

from __future__ import annotations

import subprocess

from workers.sweeping import news_of


def stand_in(script: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["/bin/sh", "-c", script], stdout=subprocess.PIPE)


def test_of_what_has_piled_up_the_newest_counts_and_silence_is_not_waited_for() -> None:
    with stand_in("echo none; echo work; exec sleep 60") as child:
        assert list(news_of(child, longest=2.0))[-1:] == [True]
        assert child.poll() is None
        child.kill()


def test_the_end_of_the_sweep_ends_the_news() -> None:
    with stand_in("echo none") as child:
        assert list(news_of(child, longest=60.0)) == [False]
