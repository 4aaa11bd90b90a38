"""Embeddings kept on disk: found again under the same key only, and never half."""

import numpy as np
import pytest
import torch
from torch import nn

from utilities.neighbours import embedding_file

NAMES = np.array(["a", "b", "c"])


def network(value=0.5):
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    for parameter in net.parameters():
        nn.init.constant_(parameter, value)
    return net


def test_what_was_saved_is_found(tmp_path):
    embeddings, rows = torch.randn(4, 3), torch.tensor([0, 1, 3, 4])
    path = tmp_path / "new" / "test.npz"
    embedding_file.save(path, "key", embeddings, rows)
    found = embedding_file.load(path, "key")
    assert found is not None
    torch.testing.assert_close(found, (embeddings, rows), rtol=0, atol=0)
    assert [file.name for file in path.parent.iterdir()] == ["test.npz"]


def test_under_another_key_there_is_nothing(tmp_path):
    path = tmp_path / "test.npz"
    assert embedding_file.load(path, "key") is None
    embedding_file.save(path, "key", torch.zeros(1, 2), torch.zeros(1))
    assert embedding_file.load(path, "other") is None


@pytest.mark.parametrize("left", [0, 10, 300])
def test_a_damaged_file_is_none(tmp_path, left):
    path = tmp_path / "test.npz"
    embedding_file.save(path, "key", torch.randn(50, 8), torch.arange(50))
    path.write_bytes(path.read_bytes()[:left])
    assert embedding_file.load(path, "key") is None


def test_the_key_follows_from_weights_buffers_names_and_facts():
    facts = {"image_size": 64, "bands": ["R", "G", "B"]}
    key = embedding_file.digest(network(), NAMES, facts)
    assert key == embedding_file.digest(network(), list(NAMES), dict(reversed(facts.items())))
    moved = network()
    moved[1].running_mean += 1
    others = [
        embedding_file.digest(network(0.25), NAMES, facts),
        embedding_file.digest(moved, NAMES, facts),
        embedding_file.digest(network(), NAMES[::-1], facts),
        embedding_file.digest(network(), NAMES, facts | {"image_size": 65}),
    ]
    assert len({key, *others}) == 5
