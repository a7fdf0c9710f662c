"""The news of a sweep, on stand-ins for the process: whoever waits for it does not hang with it."""

from __future__ import annotations

import os
import signal
import subprocess
import time

from workers.sweeping import news_of


def stand_in(script: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["/bin/sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_of_what_has_piled_up_the_newest_counts_and_silence_is_not_waited_for() -> None:
    with stand_in("echo none; echo work; exec sleep 60") as child:
        assert list(news_of(child, longest=2.0))[-1:] == [True]
        assert child.poll() is None
        child.kill()


def test_the_end_of_the_sweep_ends_the_news() -> None:
    with stand_in("echo none") as child:
        assert list(news_of(child, longest=60.0)) == [False]


def test_the_end_of_the_sweep_ends_the_news_where_another_process_keeps_its_pipe_open() -> None:
    """As a process of the pool does that was forked while the sweep was being started."""
    with stand_in("sleep 60 & echo none; echo $! >&2; exit") as child:
        assert child.stderr is not None
        keeper = int(child.stderr.readline())
        begun = time.monotonic()
        try:
            assert list(news_of(child, longest=40.0)) == [False]
            assert time.monotonic() - begun < 20
        finally:
            os.kill(keeper, signal.SIGKILL)
