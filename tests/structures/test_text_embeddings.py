"""Files of text embeddings: what is written is read, and what is none is refused."""

import math

import pytest
import torch
from safetensors.torch import save_file

from pano3d.structures import LabelSpace, TextEmbeddings


def toy(**changes) -> TextEmbeddings:
    angles = torch.tensor([0.0, 0.3, 2.0])
    values = dict(names=('chair', 'sofa', 'wall'), encoder='toy', prompt='a {}')
    return TextEmbeddings(**{**values, 'vectors': torch.stack([angles.cos(), angles.sin()], 1), **changes})


def test_a_written_file_is_read_again(tmp_path):
    toy().save(tmp_path / 'toy.safetensors')
    read = TextEmbeddings.load(str(tmp_path / 'toy.safetensors'))
    assert (read.names, read.encoder, read.prompt, read.dim) == (('chair', 'sofa', 'wall'), 'toy', 'a {}', 2)
    assert read.vectors.dtype == torch.float32
    assert (read.vectors - toy().vectors).norm(dim=1).max() < 1e-3
    torch.testing.assert_close(read.vectors.norm(dim=1), torch.ones(3))


def test_selection_follows_the_order_asked_for():
    chosen = toy().select(['wall', 'chair'])
    assert chosen.names == ('wall', 'chair')
    assert chosen.vectors[:, 0].tolist() == pytest.approx([math.cos(2), 1])
    with pytest.raises(ValueError, match=r"\['desk', 'lamp'\] \(2 in all\) by encoder 'toy'"):
        toy().select(['lamp', 'chair', 'desk'])


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'names': ('chair', 'chair', 'wall')}, r"repeats \['chair'\]"),
        ({'names': ('chair', 'sofa')}, r'\(2, D\).*got torch.float32 \(3, 2\)'),
        ({'vectors': torch.eye(3, dtype=torch.long)}, 'got torch.int64'),
        ({'vectors': 2 * torch.eye(3)}, 'length 1, got lengths from 2 to 2'),
        ({'vectors': torch.full((3, 2), torch.nan)}, 'length 1'),
        ({'prompt': 'a chair'}, '`prompt`'),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        toy(**changes)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / 'other.safetensors'
    with pytest.raises(ValueError, match=r"expected one of \['minilm'\] or a path"):
        TextEmbeddings.load(str(path))
    save_file({'weight': torch.ones(2)}, path)
    with pytest.raises(
        ValueError, match=r"other\.safetensors.*\['names', 'encoder', 'prompt', 'vectors'\] are missing"
    ):
        TextEmbeddings.load(str(path))
    path.write_bytes(b'nothing')
    with pytest.raises(ValueError, match=r'other\.safetensors: expected text embeddings'):
        TextEmbeddings.load(str(path))
    save_file({'vectors': torch.eye(2)}, path, {'names': 'chair, sofa', 'encoder': 'toy', 'prompt': '{}'})
    with pytest.raises(ValueError, match=r'other\.safetensors: expected text embeddings'):
        TextEmbeddings.load(str(path))


@pytest.mark.parametrize('space', ['scannet20', 'scannet200', 'scannetpp100', 'scannet200+scannetpp100'])
def test_the_packaged_file_has_all_classes(space):
    names = LabelSpace.load(space).names
    chosen = TextEmbeddings.load('minilm').select(names)
    assert chosen.names == names
    assert chosen.dim == 384
    cosines = chosen.vectors @ chosen.vectors.T - 2 * torch.eye(len(names))
    assert cosines.max() < 0.999, 'two classes with one vector'


@pytest.mark.parametrize(
    ('name', 'near', 'far'),
    [
        ('sofa', 'couch', 'sink'),
        ('trash can', 'trash bin', 'window'),
        ('tv', 'monitor', 'rug'),
        ('bathtub', 'shower', 'desk'),
    ],
)
def test_the_packaged_vectors_know_what_is_alike(name, near, far):
    vectors = TextEmbeddings.load('minilm').select([name, near, far]).vectors
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.1
