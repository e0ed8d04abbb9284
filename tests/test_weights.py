"""A model's file carries a digest: what is read is what was written."""

import contextlib

import pytest
import torch
from safetensors.torch import load_file, save_file

from ditcnn.train.weights import encoded, read_weights

WEIGHTS = {
    "a": torch.arange(6.0).view(2, 3),
    "b": torch.tensor(3),
    "c": torch.ones(5, dtype=torch.bfloat16),
    "d": torch.empty(0, 4),
    "e": torch.arange(4.0).view(2, 2).T,
}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_weights_come_back_here_and_from_safetensors_itself(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(encoded({name: tensor.contiguous() for name, tensor in WEIGHTS.items()}))
    assert same(read_weights(path), WEIGHTS)
    assert same(load_file(path), WEIGHTS)


def test_each_flipped_bit_is_harmless_or_noticed(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(encoded({"a": WEIGHTS["a"], "b": WEIGHTS["b"]}))
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        with contextlib.suppress(ValueError, MemoryError):
            assert same(read_weights(path), {"a": WEIGHTS["a"], "b": WEIGHTS["b"]}), place


def test_the_same_weights_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(encoded({"a": WEIGHTS["a"]}))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_file_of_another_program_has_no_digest_and_is_believed(tmp_path):
    save_file({"a": WEIGHTS["a"]}, tmp_path / "m.safetensors")
    assert same(read_weights(tmp_path / "m.safetensors"), {"a": WEIGHTS["a"]})


def test_a_cut_file_and_a_folder_are_errors(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(encoded({"a": WEIGHTS["a"]}))
    path.write_bytes(path.read_bytes()[:-3])
    for place in (path, tmp_path):
        with pytest.raises(ValueError, match=place.name):
            read_weights(place)
