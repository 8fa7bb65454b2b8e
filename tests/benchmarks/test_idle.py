from benchmarks.idle import idle_figures, idle_table


def test_each_round_is_compared_with_itself():
    figures = idle_figures(1000, [90.0, 190.0, 99.0], [100.0, 200.0, 100.0], 50.0, [60.0, 59.0])
    assert figures.ratio.median == 0.95
    assert (figures.ratio.low, figures.ratio.high) == (0.9, 0.99)
    assert figures.requests_per_s.median == 100
    assert (figures.front_end_mib, figures.front_end_mib_with_idle) == (50, 60)
    *_, line = idle_table(figures).splitlines()
    assert line == "| 1,000 | 99 (90–190) | 0.95 (0.9–0.99) | 60 | 10.2 |"
