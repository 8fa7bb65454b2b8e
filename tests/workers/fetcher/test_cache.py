"""Files of URLs: fetched once by a child, found again without a network, refused with a reason."""

import hashlib
import socket

import numpy as np
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from tests.support.certificates import Authority
from tests.support.file_server import commit_of, file_server
from workers.fetcher.cache import fetch_files
from workers.fetcher.protocol import FetchError
from workers.fetcher.source import FileSource

CONTENT = b"network" * 100_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def _surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("ENSEMBLED_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def web(tmp_path, monkeypatch):
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
    with file_server(authority) as server:
        server.files["/a/net.onnx"] = CONTENT
        yield server


def fetch(url, sha256="", files=""):
    source = FileSource(url, sha256, files=files)
    (found,) = fetch_files([source], lambda *_: None).values()
    if isinstance(found, FetchError):
        raise found
    return found


def unused_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_a_file_is_fetched_once_and_again_when_it_has_changed(web):
    url = f"{web.url}/a/net.onnx?token=secret"
    first = fetch(url)
    assert first.name == "net.onnx"
    assert first.read_bytes() == CONTENT
    assert fetch(url) == first
    assert web.asked[-1][2]["If-None-Match"]
    web.files["/a/net.onnx"] = b"newer"
    newer = fetch(url)
    assert newer.read_bytes() == b"newer"
    assert first.read_bytes() == CONTENT  # a server that runs still has its file


def test_a_pinned_file_that_is_here_needs_no_network(web):
    path = fetch(f"{web.url}/a/net.onnx", SHA256)
    asked = len(web.asked)
    assert fetch(f"{web.url}/a/net.onnx", SHA256) == path
    assert fetch(f"https://127.0.0.1:{unused_port()}/net.onnx", SHA256) == path
    assert len(web.asked) == asked


def test_another_content_than_the_pinned_one_is_refused_and_not_kept(web, tmp_path):
    with pytest.raises(FetchError, match=f"has the sha256 {SHA256}, not the pinned 0000") as caught:
        fetch(f"{web.url}/a/net.onnx", "0" * 64)
    assert caught.value.is_wrong
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_server_without_a_network_uses_the_cached_file_and_says_so(web, caplog):
    url = f"{web.url}/a/net.onnx?token=secret"
    path = fetch(url)
    web.refusals["/a/net.onnx"] = 503
    assert fetch(url) == path
    assert (
        "can't be asked for a newer version, the cached one is used: the server answered 503"
        in (caplog.text)
    )
    assert "secret" not in caplog.text


def test_a_network_that_is_not_there(monkeypatch):
    with pytest.raises(FetchError, match="Cannot connect to host 127.0.0.1") as caught:
        fetch(f"https://127.0.0.1:{unused_port()}/net.onnx?token=secret")
    assert not caught.value.is_wrong
    assert "secret" not in str(caught.value)


def test_several_files_and_failures_are_told_apart(web):
    web.files["/b.txt"] = b"labels"
    sources = [FileSource(f"{web.url}/{name}") for name in ("a/net.onnx", "none", "b.txt")]
    seen = []
    found = fetch_files(sources, lambda *progress: seen.append(progress))
    assert [isinstance(found[source], FetchError) for source in sources] == [False, True, False]
    assert str(found[sources[1]]) == "the server answered 404 Not Found"
    assert found[sources[2]].read_bytes() == b"labels"


def write_model_with_weights(path, location):
    weights = numpy_helper.from_array(np.ones((2, 2), np.float32), "w")
    external_data_helper.set_external_data(weights, location)
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    x, y = (helper.make_tensor_value_info(one, TensorProto.FLOAT, ["n", 2]) for one in "xy")
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "network", [x], [y], [weights])
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path.read_bytes()


def test_the_weights_of_a_model_are_fetched_with_it(web, tmp_path):
    web.files["/a/net.onnx"] = write_model_with_weights(tmp_path / "net.onnx", "parts/w 1.bin")
    web.files["/a/parts/w%201.bin"] = bytes(16)
    url = f"{web.url}/a/net.onnx?sig=hush"
    path = fetch(url)
    assert (path.parent / "parts" / "w 1.bin").read_bytes() == bytes(16)
    assert {asked.partition("?")[2] for _, asked, _ in web.asked} == {"sig=hush"}
    assert fetch(url) == path
    web.files["/a/parts/w%201.bin"] = b"1" * 16  # the graph is the same
    newer = fetch(url)
    assert (newer.parent / "parts" / "w 1.bin").read_bytes() == b"1" * 16
    assert (path.parent / "parts" / "w 1.bin").read_bytes() == bytes(16)


def test_weights_that_are_not_there_not_pinned_or_elsewhere(web, tmp_path):
    url = f"{web.url}/a/net.onnx"
    web.files["/a/net.onnx"] = content = write_model_with_weights(tmp_path / "net.onnx", "w.bin")
    with pytest.raises(FetchError, match="its weights w.bin: the server answered 404 Not Found"):
        fetch(url)
    with pytest.raises(FetchError, match="in w.bin, which its sha256 says nothing about"):
        fetch(url, hashlib.sha256(content).hexdigest())
    web.files["/a/net.onnx"] = write_model_with_weights(tmp_path / "net.onnx", "../w.bin")
    with pytest.raises(FetchError, match="which is not in the directory of the model"):
        fetch(url)


@pytest.fixture
def s3(monkeypatch, tmp_path):
    with file_server() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
        server.files["/bucket/a/net.onnx"] = CONTENT
        yield server


def test_a_file_in_s3(s3):
    path = fetch("s3://bucket/a/net.onnx")
    assert path.read_bytes() == CONTENT
    asked = len(s3.asked)
    assert fetch("s3://bucket/a/net.onnx") == path
    assert {method for method, *_ in s3.asked[asked:]} == {"HEAD"}


def test_s3_without_the_file_the_right_or_credentials(s3, monkeypatch):
    with pytest.raises(FetchError, match="there is no such file") as caught:
        fetch("s3://bucket/none.onnx")
    assert caught.value.is_wrong
    s3.refusals["/bucket/a/net.onnx"] = 403
    with pytest.raises(FetchError, match=r"access is denied \(credentials: AWS_") as caught:
        fetch("s3://bucket/a/net.onnx")
    assert "hush" not in str(caught.value)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(FetchError, match=r"needs credentials \(credentials: AWS_"):
        fetch("s3://bucket/a/net.onnx")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with file_server() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)  # which the adapter's tests set
        server.files["/org/repo/resolve/main/net.onnx"] = CONTENT
        server.files["/org/repo/resolve/v2/net.onnx"] = b"v2"
        yield server


def test_a_file_of_a_hub_and_its_revision(hub):
    path = fetch("hf://org/repo/net.onnx")
    assert path.read_bytes() == CONTENT
    assert fetch("hf://org/repo/net.onnx") == path
    assert fetch("hf://org/repo@v2/net.onnx").read_bytes() == b"v2"


def test_a_hub_without_the_file(hub):
    for url in ("hf://org/repo/none.onnx", "hf://org/other/net.onnx"):
        with pytest.raises(FetchError, match="there is no such file, or it is private") as caught:
            fetch(url)
        assert caught.value.is_wrong


#: Which files of a directory are wanted, here.
FILES = r"[^/]+\.(json|txt)"
WANTED = {"config.json": b"{}", "vocab.txt": b"a b"}
OTHERS = {"net.bin": b"no", "code.py": b"no", "sub/other.json": b"no"}


def contents_of(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def serve_directory(server, kind):
    """Put a directory on a server; return its URL there, and the path before its files' names."""
    url, start = {
        "s3": ("s3://bucket/models/a", "/bucket/models/a/"),
        "hub": ("hf://org/repo", "/org/repo/resolve/main/"),
    }[kind]
    server.files.update({start + name: one for name, one in (WANTED | OTHERS).items()})
    if kind == "s3":
        server.files[f"{start}sub/"] = b""  # how some tools mark a directory
    return url, start


@pytest.fixture(params=["s3", "hub"])
def store(request):
    server = request.getfixturevalue(request.param)
    return server, *serve_directory(server, request.param)


def test_the_wanted_files_of_a_directory_are_fetched_once_and_anew_when_they_change(store, caplog):
    caplog.set_level("INFO")
    server, url, start = store
    path = fetch(url, files=FILES)
    assert contents_of(path) == WANTED
    assert path.name == url.rpartition("/")[2]
    assert f"fetched {url}, version " in caplog.text
    caplog.clear()
    asked = len(server.asked)
    assert fetch(url, files=FILES) == path
    assert not [one for _, one, _ in server.asked[asked:] if one.startswith(start)]
    assert not caplog.records
    server.files[start + "vocab.txt"] = b"a b c"
    newer = fetch(url, files=FILES)
    assert contents_of(newer) == WANTED | {"vocab.txt": b"a b c"}
    assert contents_of(path) == WANTED  # a server that runs still has its files
    assert OTHERS.items() <= contents_of(fetch(url, files=".+")).items()


def test_only_files_that_have_changed_are_fetched_again(store):
    server, url, start = store
    fetch(url, files=FILES)
    server.files[start + "vocab.txt"] = b"a b c"
    asked = len(server.asked)
    fetch(url, files=FILES)
    names = {path.rpartition("/")[2] for _, path, _ in server.asked[asked:]}
    assert "vocab.txt" in names
    assert "config.json" not in names


def test_a_directory_is_the_last_complete_one_without_a_network(store, monkeypatch, caplog):
    server, url, start = store
    path = fetch(url, files=FILES)
    server.files |= {start + "config.json": b"newer", start + "vocab.txt": b"newer"}
    server.refusals[start + "vocab.txt"] = 403
    with pytest.raises(FetchError, match="its file vocab.txt: ") as caught:
        fetch(url, files=FILES)
    assert caught.value.is_wrong
    nowhere = f"http://127.0.0.1:{unused_port()}"
    for name in ("AWS_ENDPOINT_URL", "HF_ENDPOINT"):
        monkeypatch.setenv(name, nowhere)
    assert fetch(url, files=FILES) == path
    assert f"{url} can't be asked for a newer version, the cached one is used" in caplog.text
    assert contents_of(path) == WANTED
    with pytest.raises(FetchError) as caught:
        fetch(f"{url}/other", files=FILES)
    assert not caught.value.is_wrong


def test_a_file_that_is_another_one_than_the_listing_says(s3):
    url, start = serve_directory(s3, "s3")
    s3.listed[start + "vocab.txt"] = b"before"
    with pytest.raises(FetchError, match=r"vocab.txt: has changed since its directory") as caught:
        fetch(url, files=FILES)
    assert not caught.value.is_wrong


def test_a_commit_is_asked_for_once(hub):
    url, start = serve_directory(hub, "hub")
    commit = commit_of({n.removeprefix(start): c for n, c in hub.files.items() if start in n})
    path = fetch(f"{url}@{commit}", files=FILES)
    assert contents_of(path) == WANTED
    asked = len(hub.asked)
    assert fetch(f"{url}@{commit}", files=FILES) == path
    assert len(hub.asked) == asked


def test_a_directory_that_is_not_there_or_may_not_be_read(store):
    server, url, _ = store
    nowhere = {"s3": "s3://bucket/none", "hf": "hf://org/none"}[url.partition(":")[0]]
    with pytest.raises(FetchError, match=r"no such directory, or it is private .*_") as caught:
        fetch(nowhere, files=FILES)
    assert caught.value.is_wrong
    server.refusals |= {"/bucket": 403, "/api/models/org/repo/revision/main": 403}
    server.refusals["/api/models/org/repo"] = 403
    with pytest.raises(FetchError, match=r"access is denied|needs credentials") as caught:
        fetch(url, files=FILES)
    assert caught.value.is_wrong


def test_names_that_leave_the_directory_are_refused(s3):
    url, start = serve_directory(s3, "s3")
    s3.files[start + "../../x.json"] = b"{}"
    with pytest.raises(FetchError, match=r"has a file '../../x.json', which is no path in it"):
        fetch(url, files=".+")


def test_a_directory_without_the_files_that_are_wanted(store):
    server, url, _ = store
    for wrong, files in (
        (url, r".+\.safetensors"),
        (f"{url}/none", FILES),
        (f"{url}/config.json", ".+"),
    ):
        with pytest.raises(FetchError, match="has no files like") as caught:
            fetch(wrong, files=files)
        assert caught.value.is_wrong
