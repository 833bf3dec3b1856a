"""``scripts/emulated_board``: makes, starts, uses and stops the emulated board from a shell."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pocketstep.validate.board import DATA_MB, MEMORY_MB, Board, running, start
from pocketstep.validate.cache import cache_folder
from pocketstep.validate.errors import TargetError
from pocketstep.validate.image import board_image
from pocketstep.validate.stopping import signals


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; exit codes are those of ``pocketstep``, ``ssh`` gives its command's."""
    parser = argparse.ArgumentParser("scripts/emulated_board", description=__doc__)
    default = cache_folder() / "board"
    parser.add_argument("--folder", type=Path, default=default, help="of the board's /data (default: in the cache)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    commands.add_parser("make", help="fetch and make the board's image; prints where it is")
    starting = commands.add_parser("start", help="start the board and wait until ssh answers")
    starting.add_argument("--memory-mb", type=int, default=MEMORY_MB, help=f"its memory (default {MEMORY_MB})")
    starting.add_argument("--data-mb", type=int, default=DATA_MB, help=f"size of a new /data (default {DATA_MB})")
    commands.add_parser("status", help="whether it runs, and how to reach it")
    shell = commands.add_parser("ssh", help="run a command on the board, or a shell")
    shell.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND")
    commands.add_parser("stop", help="shut it down")
    commands.add_parser("cut", help="cut its power")
    options = parser.parse_args(arguments)
    try:
        with signals():
            return _run(options)
    except TargetError as error:
        sys.stderr.write(f"emulated_board: {error}\n")
        return error.exit_code


def _run(options: argparse.Namespace) -> int:
    if options.command == "make":
        sys.stdout.write(f"{board_image()}\n")
    elif options.command == "start":
        board = start(options.folder, options.memory_mb, data_mb=options.data_mb)
        sys.stdout.write(f"ssh answers after {board.boot_seconds:.1f} s\n{_reach(board)}\n")
    else:
        return _use(options)
    return 0


def _use(options: argparse.Namespace) -> int:
    board = running(options.folder)
    if board is None:
        sys.stdout.write("the board does not run; scripts/emulated_board start\n")
        return 1 if options.command == "ssh" else 0
    if options.command == "ssh":
        return subprocess.run([*_ssh(board), *options.words], check=False).returncode
    if options.command == "status":
        sys.stdout.write(f"process {board.pid}\n{_reach(board)}\n")
    elif options.command == "stop":
        board.stop()
    else:
        board.cut()
    return 0


def _ssh(board: Board) -> list[str]:
    return ["ssh", *board.shell.options, "-p", str(board.port), board.shell.host]


def _reach(board: Board) -> str:
    return " ".join(_ssh(board))


if __name__ == "__main__":
    raise SystemExit(main())
