import pytest

from server.versions import internal_name, public_name, shown_names, split_name


def test_names():
    assert internal_name("cat", "10") == "cat@10"
    assert public_name("cat@10") == ("cat", "10")
    assert public_name("cat") == ("cat", "1")
    assert split_name("cat@10") == ("cat", "10")
    assert split_name("cat") == ("cat", "")


@pytest.mark.parametrize(
    ("internals", "shown"),
    [
        ((), ()),
        (("cat", "dog"), ("cat", "dog")),
        (("cat@3", "dog"), ("cat", "dog")),
        (("cat@3", "dog@1", "cat@2"), ("cat@3", "dog", "cat@2")),
    ],
)
def test_members_are_shown_with_their_version_where_it_matters(internals, shown):
    assert shown_names(internals) == shown
