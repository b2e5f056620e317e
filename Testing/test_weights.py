"""Weights and cards: verified before use, found by name and version."""

import json
from dataclasses import replace

import pytest
import torch

from DMRIMicroLib import weights
from DMRIMicroLib.errors import InputError
from DMRIMicroLib.weights import Card, available, load, save, store

CARD = Card("thing", "1.0.0", "codebook", {"width": 3})
TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([True, False])}


def test_weights_come_back_as_they_were(tmp_path):
    card_file = save(TENSORS, CARD, tmp_path)
    assert sorted(f.name for f in tmp_path.iterdir()) == [
        "thing-1.0.0.json",
        "thing-1.0.0.safetensors",
    ]
    for file in (card_file, card_file.with_suffix(".safetensors")):
        tensors, card = load(file, "codebook")
        assert all(torch.equal(tensors[k], v) for k, v in TENSORS.items())
        assert card == replace(CARD, sha256=card.sha256, bytes=card.bytes)
    assert card.bytes == card_file.with_suffix(".safetensors").stat().st_size
    modes = {f.stat().st_mode for f in tmp_path.iterdir()}
    assert len(modes) == 1  # colleagues may read the weights if they may read the card
    assert card.provenance() == {"name": "thing-1.0.0", "sha256": card.sha256}


def test_changed_or_missing_files_are_refused(tmp_path):
    file = save(TENSORS, CARD, tmp_path).with_suffix(".safetensors")
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match="has the sha256"):
        load(file)
    file.write_bytes(content[:-4])
    with pytest.raises(InputError, match="was changed or cut off"):
        load(file)
    file.unlink()
    with pytest.raises(InputError, match="is missing"):
        load(file)
    file.write_bytes(content)
    file.with_suffix(".json").unlink()
    with pytest.raises(InputError, match="there is no card"):
        load(file)
    with pytest.raises(InputError, match="there is no such file"):
        load(file.with_name("mistyped.safetensors"))


def test_a_card_that_is_none_is_refused(tmp_path):
    card_file = save(TENSORS, CARD, tmp_path)
    with pytest.raises(InputError, match="is a codebook"):
        load(card_file, "prior")
    told = json.loads(card_file.read_text())
    for text in ("{", json.dumps({"name": "x"}), json.dumps({**told, "pickle": 1})):
        card_file.write_text(text)
        with pytest.raises(InputError, match="is no model card"):
            load(card_file)


def test_too_large_a_file_is_not_written(tmp_path):
    large = {"a": torch.zeros(store.LARGEST // 4 + 1)}
    with pytest.raises(InputError, match=r"16\.0 MB, more than 16"):
        save(large, CARD, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_latest_version_is_taken_by_number(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SHIPPED", tmp_path)
    for version in ("1.9.0", "1.10.0", "1.2.0"):
        save(TENSORS, replace(CARD, version=version), tmp_path)
    save(TENSORS, replace(CARD, name="other", kind="prior"), tmp_path)
    assert load("thing")[1].version == "1.10.0"
    assert load("thing-1.2.0")[1].version == "1.2.0"
    assert set(available("prior")) == {"other-1.0.0"}
    with pytest.raises(InputError, match=r"no weights 'none'.*thing-1\.10\.0"):
        load("none")


def test_versions_are_listed_in_rising_order(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SHIPPED", tmp_path)
    for version in ("1.9.0", "1.10.0"):
        save(TENSORS, replace(CARD, version=version), tmp_path)
    assert list(available()) == ["thing-1.9.0", "thing-1.10.0"]


@pytest.mark.parametrize("stem", list(available()) or [None])
def test_every_shipped_card_is_whole(stem):
    if stem is None:
        pytest.skip("no weights are shipped yet")
    tensors, card = load(stem)
    assert tensors
    assert card.stem == stem
    assert card.about
    assert card.training
    assert card.metrics
    assert card.bytes < store.LARGEST


def test_names_are_public():
    assert set(weights.__all__) == {"Card", "available", "load", "save", "verify"}
