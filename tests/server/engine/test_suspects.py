"""Which rows run again after a death, and which do not."""

from allocator.dispatch.pending import PendingRows
from allocator.dispatch.state import Member
from server.engine.suspects import FAIL_AFTER, Suspects, Verdict


def member(name):
    return Member(name, 0, 0, PendingRows(4))


def test_a_row_is_tried_in_company_then_alone_then_not_any_more():
    suspects, one = Suspects(), member("one")
    verdicts = [suspects.blame(one, 7) for _ in range(FAIL_AFTER)]
    assert verdicts == [Verdict.AGAIN, *[Verdict.ALONE] * 3, Verdict.FAILS]
    assert suspects.blame(one, 7) is Verdict.AGAIN, "it is forgotten with its verdict"


def test_deaths_count_for_one_member_and_until_the_row_survives():
    suspects, one, other = Suspects(), member("one"), member("other")
    suspects.blame(one, 7)
    assert suspects.blame(other, 7) is Verdict.AGAIN
    suspects.acquit(one, 6, 9)
    assert suspects.blame(one, 7) is Verdict.AGAIN
    assert suspects.blame(other, 7) is Verdict.ALONE
