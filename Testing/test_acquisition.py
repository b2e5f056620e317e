import numpy as np
import pytest
from phantom import directions, protocol

from DMRIMicroLib.acquisition import Acquisition, Needs
from DMRIMicroLib.errors import InputError
from DMRIMicroLib.table import count_directions, to_s_per_mm2


def test_jittered_bvalues_make_one_shell_each():
    acq = protocol({1000.0: 30, 2000.0: 40})
    jitter = np.random.default_rng(1).uniform(-20, 20, len(acq)) * (acq.bvals > 0)
    shells = Acquisition(acq.bvals + jitter, acq.bvecs).shells
    assert [len(s) for s in shells] == [30, 40]
    assert [round(s.b, -2) for s in shells] == [1000, 2000]


def test_opposite_directions_count_once():
    g = directions(10)
    assert count_directions(np.concatenate([g, -g, np.zeros((3, 3))])) == 10


def test_equal_acquisitions_hash_alike_and_a_changed_one_does_not():
    a, b = protocol(), protocol()
    assert a == b
    assert hash(a) == hash(b)
    assert a != Acquisition(a.bvals, a.bvecs, delta=20.0)
    assert a != a.subset(range(len(a) - 1))


def test_arrays_cannot_be_changed_behind_its_back():
    with pytest.raises(ValueError, match="read-only"):
        protocol().bvals[0] = 5


def test_subsample_spreads_directions():
    acq = protocol({1000.0: 30, 2000.0: 60})
    g = acq.bvecs[acq.subsample({1000: 6})[1:]]
    closest = np.rad2deg(np.arccos(np.abs(g @ g.T)[~np.eye(6, dtype=bool)].max()))
    assert closest > 40  # six axes of an icosahedron are 63 degrees apart; random ones about 20
    both = acq.subset(acq.subsample({1000: 6, 2000: 15}, b0=2))
    assert [len(s) for s in both.shells] == [6, 15]
    assert both.is_b0.sum() == 2
    assert set(acq.subsample({1000: 6}, start=1)) != set(acq.subsample({1000: 6}, start=0))


def test_subsample_refuses_more_than_there_is():
    with pytest.raises(InputError, match="13 volumes asked for at b = 1000, the shell has 12"):
        protocol().subsample({1000: 13})
    with pytest.raises(InputError, match="no shell at b = 3000"):
        protocol().subsample({3000: 3})


@pytest.mark.parametrize(("scale", "words"), [(1e-3, "ms/um2"), (1e6, "s/m2")])
def test_other_units_of_b_are_recognised(scale, words):
    b, note = to_s_per_mm2(np.array([0, 1000, 3000.0]) * scale)
    np.testing.assert_allclose(b, [0, 1000, 3000])
    assert words in note


def test_plain_b_stays():
    b, note = to_s_per_mm2(np.array([0, 55.0, 12000]))
    assert note is None
    assert b[2] == 12000


@pytest.mark.parametrize(
    ("bvals", "bvecs", "words"),
    [
        ([0, np.nan], [[0, 0, 0], [1, 0, 0]], "b-value of volume 1 is nan"),
        ([0, -5], [[0, 0, 0], [1, 0, 0]], "b-value of volume 1 is -5"),
        ([0, 1000], [[0, 0, 0]], "1 b-vectors and 2 b-values"),
        ([0, 1000], [[0, 0, 0], [0, 0, 0]], "zero at b = 1000.*--exclude 1"),
        ([0, 1000], [[0, 0, 0], [0.5, 0, 0]], "length 0.5, expected 1"),
        ([0, 1000], [[0, 0, 0], [np.nan, 0, 1]], "b-vector of volume 1 is .nan"),
        ([0, 1000], [0, 1], "expected .m, 3."),
        ([], [], "expected .m,."),
    ],
)
def test_bad_tables_are_refused_with_the_volume_and_the_value(bvals, bvecs, words):
    with pytest.raises(InputError, match=words):
        Acquisition(bvals, bvecs)


def test_needs_names_what_is_lacking():
    lacks = Needs(volumes=22, shells=2, directions=15, b_max=2000, timing=True).missing(protocol())
    assert len(lacks) == 5
    assert "22 volumes (there are 14)" in lacks[0]
    assert "b1000" in lacks[1]
    two = protocol({1000.0: 15, 2000.0: 15})
    timed = Acquisition(two.bvals, two.bvecs, delta=20, Delta=40)
    assert Needs(volumes=22, shells=2, directions=15, b_max=2000, timing=True).missing(timed) == ()


@pytest.mark.parametrize(
    ("timing", "words"),
    [
        ({"delta": 30.0, "Delta": 20.0}, "Delta is 20 ms and delta 30 ms"),
        ({"delta": 0.0162}, "delta is 0.0162 ms.*\n?.*ms, not s: 0.0162 s are 16.2 ms"),
        ({"delta": 10.0, "Delta": 0.04}, "Delta is 0.04 ms"),
        ({"TE": 0.089}, "TE is 0.089 ms"),
        ({"TE": -80.0}, "TE is -80"),
    ],
)
def test_timing_that_cannot_be_in_ms_is_refused(timing, words):
    acq = protocol()
    with pytest.raises(InputError, match=words):
        Acquisition(acq.bvals, acq.bvecs, **timing)


def test_gradients_may_follow_each_other_at_once():
    acq = protocol()
    assert Acquisition(acq.bvals, acq.bvecs, delta=20.0, Delta=20.0, TE=45.0).Delta == 20


def test_directions_can_be_needed_in_every_shell():
    needs = Needs(shells=2, directions=6, directions_per_shell=6)
    uneven = protocol({1000.0: 30, 2000.0: 5})
    assert needs.missing(uneven) == (
        "6 distinct directions in each of 2 non-zero shells (there are b1000: 30, b2000: 5)",
    )
    assert needs.missing(protocol({1000.0: 30, 2000.0: 6, 3000.0: 2})) == ()
    assert Needs(shells=2, directions=6).missing(uneven) == ()
