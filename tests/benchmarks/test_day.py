from benchmarks.day.trace import ENSEMBLES, HOURS, make_trace, read_trace


def test_the_trace_is_what_its_script_makes():
    minutes = read_trace()
    assert minutes == make_trace()
    assert len(minutes) == 60 * HOURS
    for minute in minutes:
        assert minute.rows.keys() == ENSEMBLES.keys()
        assert minute.unsure <= minute.rows["products"]
