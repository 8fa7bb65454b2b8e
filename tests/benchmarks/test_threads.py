from benchmarks.threads import divide, simulated_host

_GIB = 1 << 30


def test_a_simulated_host_gains_from_a_division_where_memory_is_short():
    short = divide(16, 2 * _GIB, 1, time_limit_s=1)
    assert short.divided_rows_s > 1.5 * short.whole_rows_s
    assert short.divided_rows_s >= short.single_rows_s
    assert 0 <= short.gap < 0.2
    roomy = divide(4, 32 * _GIB, 1, time_limit_s=1)
    assert (roomy.division, roomy.single_rows_s) == ("4 x 1", roomy.divided_rows_s)


def test_profiles_follow_amdahls_law():
    host = simulated_host(4, _GIB, 2)
    one, four = (host.whole.profiles.of("lite0", kind)[1].latency_s for kind in ("cpu-1", "cpu-4"))
    assert one == 9.6e-3
    assert four == one * (0.12 + 0.88 / 4)
