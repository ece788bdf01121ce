"""What `make bench` makes of its measurements: rows, the document that is kept, its table, what has moved. No clock is read here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from bench.measuring import Failure, Row, in_turns, peak, reset_peak, show, tried
from bench.result_tables import Stamp, commit, committed_text, markdown, merged, moved
from bench.worker import LLAMA, Sides

ROOT = Path(__file__).resolve().parents[1]
ABOUT = {
    "level": "x86-64-v3",
    "processors": 2,
    "processor": "A Processor",
    "versions": {"aprgraph": "0.1.0"},
    "llama.cpp": "AVX2 = 1",
    "load": {"before": 0.25, "after": 1.5},
}
FIRST, SECOND = Stamp("2026-01-01 00:00 UTC", "aaa"), Stamp("2026-01-02 00:00 UTC", "bbb")


def row(group: str = "tokens", what: str = "a token", ratio: float = 1.0) -> Row:
    return Row(group, what, LLAMA, 0.02, 0.02 * ratio, 0.9 * ratio, ratio, 1.2 * ratio, 9, 2, 50_000_000)


def test_a_row_has_the_medians_and_the_ratios_within_each_round() -> None:
    found = Row.of("tokens", "a token", LLAMA, ours=[1.0, 2.0, 4.0], theirs=[3.0, 2.0, 2.0], threads=2)
    # The ratio of the medians is 1 too, but those of the rounds are 3, 1 and 0.5.
    assert (found.seconds, found.peer_seconds) == (2.0, 2.0)
    assert (found.low, found.ratio, found.high, found.rounds) == (0.5, 1.0, 3.0, 3)
    assert found.line().split("  ")[0] == "a token"
    assert "2.00 s" in found.line()
    assert "1 (0.5 to 3) times as fast as llama.cpp" in found.line()


def test_a_row_needs_as_many_rounds_of_the_peer() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Row.of("tokens", "a token", LLAMA, [1.0, 2.0], [1.0], 1)


def test_a_measurement_that_fails_keeps_its_rows_and_lets_others_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    def breaks() -> Iterator[Row]:
        yield row(what="before")
        raise OSError(28, "No space left on device")

    def exits() -> Iterator[Row]:
        yield from ()
        sys.exit("error: cmp ended with exit code 1")

    found = [*tried("diff", "first", breaks), *tried("diff", "second", exits), *tried("diff", "third", lambda: [row(what="after")])]
    assert [each.what for each in found] == ["before", "first", "second", "after"]
    assert [each.why for each in found if isinstance(each, Failure)] == [
        "OSError: [Errno 28] No space left on device",
        "cmp ended with exit code 1",
    ]
    assert show(found) == 1
    assert "second: FAILED: cmp ended with exit code 1" in capsys.readouterr().out
    assert show([row()]) == 0


def test_the_first_round_is_not_counted() -> None:
    ticks = iter(range(100))
    called: list[str] = []
    taken = in_turns({"a": lambda: called.append("a"), "b": lambda: called.append("b")}, 2, lambda: float(next(ticks)))
    assert called == ["a", "b"] * 3
    assert {name: len(seconds) for name, seconds in taken.items()} == {"a": 2, "b": 2}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system has no /proc/PID/clear_refs")
def test_the_peak_of_a_process_begins_anew() -> None:
    script = "import sys\nx = bytearray(b'1' * (1 << 26))\ndel x\nprint('ready', flush=True)\nsys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        before = peak(process.pid)
        reset_peak(process.pid)
        after = peak(process.pid)
        process.communicate("")
    assert before is not None
    assert after is not None
    assert before - after > 1 << 25
    assert peak(process.pid) is None


def test_a_worker_that_died_is_said_and_starts_again(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(
        "import json, sys\n"
        "print(json.dumps({}), flush=True)\n"
        "for count, line in enumerate(sys.stdin):\n"
        "    request = json.loads(line)\n"
        "    if 'die' in request:\n"
        "        sys.exit(7)\n"
        "    print(json.dumps({'count': count}), flush=True)\n"
    )
    with closing(Sides({"plain": (sys.executable, str(script))}, threads=2)) as sides:
        answers, peaks = sides.ask_in_turns(["plain"], {}, rounds=2, warm_up=1)
        assert answers == {"plain": [{"count": 1}, {"count": 2}]}
        assert peaks["plain"] is not None
        with pytest.raises(SystemExit, match="worker.py ended with exit code 7"):
            sides.ask_in_turns(["plain"], {"die": True}, rounds=1)
        assert sides.ask_in_turns(["plain"], {}, rounds=1, warm_up=0)[0] == {"plain": [{"count": 0}]}
        with pytest.raises(SystemExit, match=r"llama\.cpp is not here: give --llama-python"):
            sides.ask_in_turns(["plain", LLAMA], {}, rounds=1)


def test_a_partial_run_keeps_the_other_rows_with_when_they_were_measured() -> None:
    old = merged(None, ABOUT, FIRST, [row("prefill", "7 tokens"), row("tokens", "gone"), row("tokens")], {"prefill", "tokens"})
    new = merged(old, ABOUT, SECOND, [row("tokens", ratio=2.0)], {"tokens"})
    assert [(each["group"], each["what"], each["ratio"], each["commit"]) for each in new["rows"]] == [
        ("tokens", "a token", 2.0, "bbb"),
        ("prefill", "7 tokens", 1.0, "aaa"),
    ]
    assert (new["date"], new["commit"]) == (SECOND.date, "bbb")


def test_where_something_failed_the_earlier_rows_stay() -> None:
    old = merged(None, ABOUT, FIRST, [row(what="one"), row(what="two")], {"tokens"})
    new = merged(old, ABOUT, SECOND, [row(what="one")], set())
    assert {each["what"]: each["commit"] for each in new["rows"]} == {"one": "bbb", "two": "aaa"}


def test_the_table_is_made_from_the_json() -> None:
    old = merged(None, ABOUT, FIRST, [row("prefill", "7 tokens"), replace(row(), memory=None, note="a note")], ())
    table = markdown(json.loads(json.dumps(old)))
    assert "# Measured on x86-64-v3, 2 processors" in table
    assert "- last run: 2026-01-01 00:00 UTC, commit aaa, load 0.2 before and 1.5 after" in table
    assert "| a token | 20 ms | llama.cpp | 20 ms | 1 | 0.9 to 1.2, 9 |  | 2 | a note |\n" in table
    assert "| 7 tokens | 20 ms | llama.cpp | 20 ms | 1 | 0.9 to 1.2, 9 | 50 | 2 |  |\n" in table
    assert "| measured |" not in table
    later = markdown(merged(old, ABOUT, SECOND, [row()], {"tokens"}))
    assert "| 50 | 2 |  | 2026-01-01 00:00 UTC, aaa |" in later
    # Every line of a table has as many cells as its head.
    for text in (table, later):
        for group in text.split("\n## ")[1:]:
            assert len({line.count("|") for line in group.splitlines() if line.startswith("|")}) == 1


def test_only_rows_well_outside_the_committed_spread_have_moved() -> None:
    before = [row(what=name, ratio=2.0) for name in ("same", "at the edge", "slower", "faster")]  # 1.8 to 2.4 each
    committed = merged(None, ABOUT, FIRST, before, ())
    now = [
        row(what="same", ratio=2.1),
        row(what="at the edge", ratio=1.7),
        row(what="slower", ratio=1.6),
        row(what="faster", ratio=2.7),
        row(what="new", ratio=9.0),
    ]
    assert moved(committed, "A Processor", now, [Failure("tokens", "lost", "no room")]) == [
        "slower: tokens: slower: 1.6 times as fast as llama.cpp; aaa had 2 (1.8 to 2.4)",
        "faster: tokens: faster: 2.7 times as fast as llama.cpp; aaa had 2 (1.8 to 2.4)",
        "2 of 4 rows left the committed spread by more than a tenth: 1 slower, 1 faster, 1 are new; 1 could not be measured",
    ]
    assert moved(committed, "Another", now[:1])[0] == "the committed rows are those of another processor, A Processor"
    assert moved(None, "A Processor", now) == ["5 rows; none are committed for this machine, so there is nothing to compare with"]


def test_what_head_has_and_which_commit_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))  # where temporary files lie within some other repository

    def git(*arguments: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b.invalid", "-c", "commit.gpgsign=false")
        return subprocess.run(["git", "-C", tmp_path, *who, *arguments], check=True, capture_output=True, text=True).stdout.strip()

    results, code = tmp_path / "bench/results/a.json", tmp_path / "code.py"
    assert commit(tmp_path) == "no commit"
    assert committed_text(tmp_path, results) is None
    results.parent.mkdir(parents=True)
    for path in (results, code):
        path.write_text("old")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    head = git("rev-parse", "--short", "HEAD")
    results.write_text("new")
    assert committed_text(tmp_path, results) == "old"
    assert committed_text(tmp_path, tmp_path / "bench/results/b.json") is None
    assert commit(tmp_path) == head  # results that were just written are no other program
    code.write_text("new")
    assert commit(tmp_path) == f"{head}+changes"


def test_a_part_without_llama_cpp_says_so_in_the_form_that_the_whole_reads(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "bench/all.py", "--part", "prefill", "SmolLM2", "--model", "no.gguf", "--scratch", tmp_path]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = [Failure(**json.loads(line)) for line in done.stdout.splitlines()]
    assert [each.what for each in found] == [
        f"no, {count} tokens, {kept}" for kept in ("nothing recorded", "every tensor written") for count in (7, 32, 256, 1024)
    ]
    assert {each.why for each in found} == {"llama.cpp is not here: give --llama-python, a Python that has llama-cpp-python"}
    assert asdict(found[0])["group"] == "prefill"
