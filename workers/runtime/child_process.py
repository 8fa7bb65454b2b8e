"""How a parent starts a child: the command, and a question to a child that ends with its answer.

Used in processes that start others. A child's stdout and stderr belong to what libraries print
there (`workers.runtime.printed`); what the child itself has to say goes through a descriptor of its
own.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass

from workers.runtime.printed import PrintReader

__all__ = ["Ended", "ask_child", "child_command"]


@dataclass(frozen=True)
class Ended:
    """What has become of a child.

    Attributes:
        code: its exit status, negative if a signal ended it.
        answer: what it wrote.
        last_line: the last line that was printed in it.
    """

    code: int
    answer: bytes
    last_line: str


def child_command(module: str, *arguments: str | int) -> list[str]:
    """Return the command of a child.

    Args:
        module: what it runs as a program.
        arguments: its descriptors among them.
    """
    # -P: a directory `workers` where the user happens to be is not ours. -u: see the module.
    return [
        *(sys.executable, "-u", "-P", "-m", "workers.runtime.child_main", module),
        *map(str, arguments),
    ]


def ask_child(source: str, module: str, question: bytes, timeout_s: float) -> Ended:
    """Run a child that reads a question from stdin and writes an answer to its descriptor.

    Args:
        source: what the log calls it if something is printed in it.
        module: what it runs; its first argument is the descriptor.
        question: the bytes on its stdin.
        timeout_s: how long it may take.

    Raises:
        subprocess.TimeoutExpired: if it takes longer; it was killed.
    """
    with tempfile.TemporaryFile() as answer:
        printed = PrintReader(source)
        try:
            child = subprocess.run(
                child_command(module, answer.fileno()),
                input=question,
                stdout=printed.fd,
                stderr=printed.fd,
                pass_fds=(answer.fileno(),),
                timeout=timeout_s,
                check=False,
            )
        finally:
            printed.started()
        answer.seek(0)
        return Ended(child.returncode, answer.read(), printed.last_line())
