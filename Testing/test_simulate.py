"""From a seed to a scan, its truth, its files and streams of patches."""

import json
import math
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from digital_ball import ball_of_tissue, flat_tissue
from safetensors.torch import load_file
from toy_anatomy import onion

import DMRIMicroLib as dm
from DMRIMicroLib.acquisition import Acquisition
from DMRIMicroLib.brain.deform import DeformationConfig
from DMRIMicroLib.brain.phantom import SubjectConfig, draw_subject
from DMRIMicroLib.brain.protocols import ProtocolConfig, named
from DMRIMicroLib.brain.relaxation import unweighted
from DMRIMicroLib.brain.scanner import Scanner, scan
from DMRIMicroLib.brain.simulate import digest, generator_for, simulate, usual_scanner
from DMRIMicroLib.brain.truth import noise_free, orientations, state_maps, truth
from DMRIMicroLib.errors import InputError
from DMRIMicroLib.physics.sh import sh_basis
from DMRIMicroLib.physics.tissue import signal as tissue_signal
from DMRIMicroLib.training import PairConfig, Pairs, Patches, StreamConfig, stream, stream_pairs
from DMRIMicroLib.training.pairs import machine
from DMRIMicroLib.training.patch import Frame, look
from DMRIMicroLib.training.patch import rendered as rendered_tissue

QUICK = {"protocol": "clinical6", "voxel_size": 6.0, "models": ["dti"]}


@pytest.fixture(scope="module")
def simulation():
    return simulate(onion(), seed=7, **QUICK)


def test_the_same_seed_gives_the_same_bits(simulation):
    again = simulate(onion(), seed=7, **QUICK)
    assert digest(simulation.scan.signal) == digest(again.scan.signal)
    for name, item in simulation.truth.items():
        np.testing.assert_array_equal(item.data, again.truth[name].data)
    other = simulate(onion(), seed=8, **QUICK)
    assert other.scan.signal.shape != simulation.scan.signal.shape or digest(
        other.scan.signal
    ) != digest(simulation.scan.signal)


def test_purposes_do_not_share_random_numbers():
    a, b = (torch.rand(4, generator=generator_for(7, name)) for name in ("subject", "scanner"))
    assert not torch.equal(a, b)
    assert torch.equal(a, torch.rand(4, generator=generator_for(7, "subject")))


def test_truth_lies_on_the_grid_of_the_scan(simulation):
    assert simulation.truth.mask.shape == simulation.scan.shape
    np.testing.assert_allclose(simulation.truth.affine, simulation.scan.affine)
    md = simulation.truth["MD"].data[simulation.truth.mask]
    assert 0.5e-3 < np.median(md) < 1.6e-3


def test_a_saved_simulation_can_be_loaded_and_fitted(simulation, tmp_path):
    image = simulation.save(tmp_path / "sub")
    read = dm.load(image, mask=tmp_path / "sub" / "dwi_mask.nii.gz")
    np.testing.assert_array_equal(
        read.volumes(range(len(read.acquisition))), simulation.scan.signal
    )
    np.testing.assert_allclose(read.acquisition.bvecs, simulation.scan.acquisition.bvecs, atol=1e-9)
    sidecar = json.loads((tmp_path / "sub" / "dwi.json").read_text())
    assert sidecar["MagneticFieldStrength"] == 3.0
    assert sidecar["EchoTime"] == pytest.approx(0.09)
    assert sidecar["DMRIMicro"]["seed"] == 7
    maps = dm.MapSet.load(tmp_path / "sub" / "truth")
    np.testing.assert_allclose(maps["FA"].data, simulation.truth["FA"].data)
    tensors = load_file(tmp_path / "sub" / "state.safetensors")
    assert len(tensors["state.odf"]) == int(simulation.volume.mask.sum())
    modes = {(tmp_path / "sub" / name).stat().st_mode for name in ("dwi.json", "state.safetensors")}
    assert len(modes) == 1  # who may read the scan may read its tissue
    assert (tmp_path / "sub" / "truth" / "model-state_param-odf_dwimap.nii.gz").exists()
    assert dm.fit(read, "dti")["FA"].data.shape == simulation.scan.shape


def test_noise_free_signals_give_the_truth_back():
    """A perfect scanner with the dense protocol: fitting it is the truth, to the last digits."""
    volume, acq = ball_of_tissue(12), named("ukb")
    scanner = Scanner("perfect", sensitivity=math.inf)
    seen = scan(volume, acq, scanner, generator_for(1, "scanner"))
    known = truth(volume, acq, scanner, ["dti"])
    fitted = dm.fit(seen, "dti", likelihood="gaussian")
    inside = known.mask & fitted.mask
    np.testing.assert_allclose(fitted["FA"].data[inside], known["FA"].data[inside], atol=2e-4)


def test_every_promised_metric_has_a_truth():
    volume = ball_of_tissue(6, size=2.0)
    known = truth(volume, named("clinical6"), replace(Scanner("x"), voxel=(4.0, 4.0, 4.0)))
    promised = (
        "FA MD AD RD MK AK RK FW FA_t NDI ODI FWF v_int D_int D_ext_perp f_neurite f_soma R_soma "
        "RTOP RTAP RTPP uFA SMT_D_par SMT_D_perp"
    ).split()
    assert len(promised) == 24
    assert not set(promised) - set(known)
    assert known.provenance["sandi"]["truth"].endswith("sandi")


def test_state_maps_are_means_of_the_state():
    volume = ball_of_tissue(12, dtype=torch.float64)
    scanner, acq = Scanner("x"), named("clinical6")
    maps = state_maps(volume, acq, scanner)
    bright = unweighted(volume, 3.0, acq.TE, scanner.TR)
    dense = torch.zeros(2, *volume.mask.shape, dtype=torch.float64)
    dense[0][volume.mask] = bright * volume.state.soma
    dense[1][volume.mask] = bright
    sums = dense.view(2, 6, 2, 6, 2, 6, 2).sum((2, 4, 6))
    wanted = (sums[0] / sums[1]).numpy()
    np.testing.assert_allclose(maps["state_soma"].data[maps.mask], wanted[maps.mask], atol=1e-6)
    shares = sum(maps[f"state_{name}"].data for name in ("neurite", "extra", "soma", "free", "dot"))
    np.testing.assert_allclose(shares[maps.mask], 1, atol=1e-5)
    radius = maps["state_radius"].data[maps.mask & (maps["state_soma"].data > 0.1)]
    assert 7.5 < radius.min() <= radius.max() < 9.6


def test_orientations_are_densities():
    volume = ball_of_tissue(12)
    odf, _ = orientations(volume, named("clinical6"), Scanner("x"))
    inside = np.abs(odf).sum(-1) > 0
    np.testing.assert_allclose(odf[inside][:, 0], 1 / np.sqrt(4 * np.pi), atol=1e-6)
    crossing = odf[2, 2, 3] if odf[2, 2, 3, 0] else odf[9, 9, 8]
    along = sh_basis(torch.eye(3), 6).numpy() @ crossing
    assert np.isfinite(along).all()


def test_the_noise_free_scan_is_the_mean_signal():
    volume, acq = ball_of_tissue(12), named("clinical6")
    seen = noise_free(volume, acq, Scanner("x"))
    bright = unweighted(volume, 3.0, acq.TE, 7.0)
    full = torch.zeros(*volume.mask.shape, len(acq))
    full[volume.mask] = tissue_signal(volume.state, Acquisition(**_told(acq))) * bright[:, None]
    wanted = full.view(6, 2, 6, 2, 6, 2, -1).mean((1, 3, 5)).numpy()
    np.testing.assert_allclose(seen.signal[seen.mask], wanted[seen.mask], atol=2e-6)


def _told(acq):
    return {"bvals": acq.bvals, "bvecs": acq.bvecs, "delta": acq.delta, "Delta": acq.Delta}


def test_lesions_and_ages_are_asked_of_the_subject():
    plain = simulate(onion(), seed=3, **QUICK | {"models": []})
    infant = simulate(onion(), seed=3, age=3.0, **QUICK | {"models": []})
    assert plain.provenance["subject"]["age"] is None
    assert infant.provenance["subject"]["age"] == 3.0
    free = [np.mean(s.truth["state_neurite"].data[s.truth.mask]) for s in (plain, infant)]
    assert free[1] < free[0]


def test_the_field_of_view_holds_a_brain_that_is_larger_and_elsewhere():
    moved = DeformationConfig(translation=30.0, scale=0.2)
    for seed in range(4):
        made = simulate(
            onion(), seed=seed, subject=SubjectConfig(deformation=moved), **QUICK | {"models": []}
        )
        mask = made.scan.mask
        edges = [mask.take(k, axis).any() for axis in range(3) for k in (0, -1)]
        assert mask.any()
        assert not any(edges), seed


def test_usual_scanners_are_worse_at_low_field():
    low, high = usual_scanner(0.064, (3.0,) * 3), usual_scanner(7.0, (1.0,) * 3)
    assert low.transmit < high.transmit
    assert low.bias < high.bias


# streams

SMALL = StreamConfig(
    patch=(6, 6, 6), batch=2, protocol=ProtocolConfig(volumes=(8, 20), shells=(1, 2)), margin=1
)


def rendered(anatomy, subject, affine, shape, device):
    return flat_tissue(affine, shape)


def batches(seed, count, **more):
    return list(islice(stream([onion()], seed, SMALL, renderer=rendered, **more), count))


def test_batches_have_the_shapes_they_promise():
    for batch in batches(1, 3):
        m = len(batch.acquisition)
        assert batch.signal.shape == batch.clean.shape == (2, m, 6, 6, 6)
        assert batch.state.shape == (2, 9, 6, 6, 6)
        assert batch.odf.shape == (2, 28, 6, 6, 6)
        assert batch.sigma.shape == batch.mask.shape == (2, 6, 6, 6)
        assert torch.isfinite(batch.signal).all()
        shares = batch.state[:, :5].sum(1)
        torch.testing.assert_close(shares, torch.ones_like(shares))


def test_noise_is_what_a_signal_has_over_its_clean_self():
    loud = [b for b in batches(2, 6) if b.scanner.coils == 1]
    for batch in loud:
        off = (batch.signal - batch.clean).abs().mean()
        assert float(off) < 10 * float(batch.sigma.mean()) + 0.5 * float(batch.clean.mean())
    assert len({b.scanner for b in loud}) == len(loud)


def test_a_batch_is_a_function_of_its_number():
    first, second = batches(5, 2), batches(5, 1, start=1)
    torch.testing.assert_close(first[1].signal, second[0].signal, rtol=0, atol=0)
    assert first[0].scanner != first[1].scanner
    assert batches(6, 1)[0].scanner != first[0].scanner


def test_workers_share_the_batches_among_them():
    data = Patches([onion()], 5, SMALL, renderer=rendered)
    loader = torch.utils.data.DataLoader(data, batch_size=None, num_workers=2)
    got = [b.scanner for b in islice(iter(loader), 4)]
    wanted = [b.scanner for b in batches(5, 4)]
    assert got == wanted


def test_a_patch_of_a_real_subject_has_brain_in_it():
    config = replace(SMALL, patch=(8, 8, 8), brain=0.5)
    batch = next(stream([onion()], 1, config))
    assert float(batch.mask.float().mean()) > 0.3
    assert float(batch.state[:, 0][batch.mask].mean()) > 0.1


def test_a_patch_larger_than_the_head_is_taken_where_most_of_it_is_brain():
    config = replace(SMALL, patch=(40, 40, 1), batch=1, brain=0.9)
    batch = next(stream([onion()], 2, config, renderer=rendered))
    assert batch.signal.shape[2:] == (40, 40, 1)


def test_a_single_slice_is_what_it_is_among_its_neighbours():
    """Slices of a head that does not move know nothing of each other: no margin is lost on them."""
    head, subject = onion(), draw_subject(generator_for(1, "subject"))
    scanner, acq = Scanner("x", ringing=True, sensitivity=math.inf), named("clinical6")
    seen = []
    for slices in (1, 3):
        frame = Frame((8, 8, slices), 2, 2, torch.tensor([0.0, 20.0, 0.0]).double())
        volume = rendered_tissue(head, subject, frame, scanner, torch.device("cpu"))
        seen.append(look(volume, frame, acq, scanner, generator_for(1, "scanner"))[0])
    torch.testing.assert_close(seen[1][..., 1:2], seen[0], rtol=1e-4, atol=1e-5)
    assert Frame((8, 8, 1), 2, 2, torch.zeros(3)).margins(replace(scanner, moves=1)) == (2, 2, 1)


# pairs

TWO = PairConfig(
    patch=(8, 8, 8),
    margin=1,
    first=machine("hcp3t", "clinical6"),
    second=machine("hcp7t", "clinical3"),
)


def test_the_pair_of_the_seed_paper_is_the_default():
    (three, first), (seven, second) = PairConfig().first, PairConfig().second
    assert (three.field, three.voxel[0], seven.field, seven.voxel[0]) == (3.0, 1.25, 7.0, 1.05)
    assert first.describe() == "18 b0, 90 x b1000, 90 x b2000, 90 x b3000"
    assert second.describe() == "15 b0, 64 x b1000, 64 x b2000"
    assert PairConfig(patch=(42, 42, 42)).patches()[1] == (50, 50, 50)


def test_pairs_show_the_same_tissue_about_the_same_middle():
    first, second = next(stream_pairs([onion()], 3, TWO))
    assert first.signal.shape == (1, 7, 8, 8, 8)
    assert second.signal.shape == (1, 4, 10, 10, 10)
    middles = [
        (b.affine[0] @ torch.tensor([*((n - 1) / 2 for n in b.mask.shape[1:]), 1.0]).double())[:3]
        for b in (first, second)
    ]
    torch.testing.assert_close(*middles)
    neurites = [float(b.state[:, 0][b.mask].mean()) for b in (first, second)]
    assert neurites[0] == pytest.approx(neurites[1], rel=0.1)
    assert second.scanner.field == 7.0


def test_a_pair_is_a_function_of_its_number_and_workers_share_them():
    again = list(islice(stream_pairs([onion()], 3, TWO), 2))
    alone = next(stream_pairs([onion()], 3, TWO, start=1))
    for a, b in zip(again[1], alone, strict=True):
        torch.testing.assert_close(a.signal, b.signal, rtol=0, atol=0)
    assert not torch.equal(again[0][0].clean, again[1][0].clean)
    loader = torch.utils.data.DataLoader(Pairs([onion()], 3, TWO), batch_size=None, num_workers=1)
    got = next(iter(loader))
    torch.testing.assert_close(got[0].clean, again[0][0].clean, rtol=0, atol=0)


def test_streams_give_the_threads_back():
    before = torch.get_num_threads()
    next(stream_pairs([onion()], 3, TWO))
    batches(1, 1)
    assert torch.get_num_threads() == before


def test_an_unknown_machine_is_refused():
    with pytest.raises(InputError, match="hcp7t"):
        machine("hcp9t", "hcp3t")
