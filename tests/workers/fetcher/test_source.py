"""Locations: their schemes, their names, and what of them may be shown."""

import pytest

from workers.fetcher.source import FileSource, redacted, scheme_of


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:hush@host/a/b.onnx", "https://host/a/b.onnx"),
        ("https://host/b.onnx?sig=hush&x=1", "https://host/b.onnx?..."),
        ("s3://bucket/a b.onnx", "s3://bucket/a b.onnx"),
        ("hf://org/repo@v1/b.onnx", "hf://org/repo@v1/b.onnx"),
    ],
)
def test_secrets_are_not_shown(url, shown):
    source = FileSource(url)
    assert source.shown == shown
    assert "hush" not in repr(source)


def test_secrets_are_left_out_of_messages():
    text = "404, message='Not Found', url='https://me:hush@host/b?sig=hush' at http://x/y?z=hush"
    assert redacted(text) == "404, message='Not Found', url='https://host/b?...' at http://x/y?..."


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://host/a/net.onnx?x=/y.pt", "net.onnx"),
        ("https://host/a/my%20net.onnx", "my_net.onnx"),
        ("https://host/..%2f..%2fetc", "etc"),
        ("https://host/%2e%2e", "file"),
        ("s3://bucket/key", "key"),
    ],
)
def test_the_name_of_a_file_stays_in_its_directory(url, name):
    assert FileSource(url).name == name


@pytest.mark.parametrize(
    ("location", "scheme"),
    [("HTTPS://h/x", "https"), ("a/b.onnx", ""), ("c:/b", ""), ("s3:/x", "")],
)
def test_schemes(location, scheme):
    assert scheme_of(location) == scheme


@pytest.mark.parametrize(
    ("url", "name", "beside"),
    [
        ("https://h/a/net.onnx?s=1", "w 1.bin", "https://h/a/w%201.bin?s=1"),
        ("hf://org/repo@v1/a/net.onnx", "b/w.bin", "hf://org/repo@v1/a/b/w.bin"),
        ("s3://bucket/net.onnx", "w 1.bin", "s3://bucket/w 1.bin"),
    ],
)
def test_files_beside_another(url, name, beside):
    assert FileSource(url).beside(name) == FileSource(beside)
