"""A supervisor that notes what it is asked to change, and answers as a test says."""

from pathlib import Path

from server.control import ChangeResult, LoadRequest
from server.inference.repository import Repository
from server.inference.spec import RepositorySpec


class PlayedControl:
    """Answers with `result`, or raises it; notes requests and what was there of their files."""

    def __init__(self, result=None):
        self.result = ChangeResult(2, ("member m: loaded",)) if result is None else result
        self.asked = []
        self.files = {}

    async def ask(self, request):
        self.asked.append(request)
        if isinstance(request, LoadRequest) and request.directory:
            self.files = files_below(request.directory)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


def files_below(directory):
    """The contents of files by their path below a directory."""
    paths = [path for path in Path(directory).rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


def repository(control, tmp_path, *, allows_control=True, allows_overrides=True):
    """A repository that asks `control`, and puts uploads below a directory."""
    spec = RepositorySpec(allows_control, allows_overrides, str(tmp_path / "uploads"))
    return Repository(control, spec)
