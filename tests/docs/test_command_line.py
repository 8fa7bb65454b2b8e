"""docs/command-line.md is what `make docs` writes."""

import subprocess
import sys

from tests.docs.pages import ROOT

PAGE = ROOT / "docs/command-line.md"


def test_the_committed_page_is_up_to_date():
    command = ["-m", "typer", "server.cli.main", "utils", "docs", "--name", "ensembled"]
    ended = subprocess.run(
        [sys.executable, *command, "--title", "Command line"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.strip() == PAGE.read_text().strip()
