"""Official files: what loads, what is left out, and what is refused with which words."""

import argparse
import http.server
import threading
from functools import partial
from pathlib import Path

import pytest
import torch
from mmengine.model import BaseModule
from safetensors.torch import save_file

from pano3d.models import VGGTBackbone

SIZES = {
    'position_grid': 2,
    'embed_dim': 16,
    'encoder_depth': 1,
    'encoder_heads': 2,
    'decoder_depth': 1,
    'decoder_heads': 2,
    'camera_depth': 1,
    'camera_heads': 2,
    'dense_layers': (0, 0, 0, 0),
    'dense_channels': (4, 4, 4, 4),
    'dense_features': 8,
}


def build(checkpoint=None, **changes) -> VGGTBackbone:
    init_cfg = None if checkpoint is None else {'type': 'Pretrained', 'checkpoint': str(checkpoint)}
    return VGGTBackbone(**(SIZES | {'init_cfg': init_cfg} | changes))


@pytest.fixture
def official() -> dict[str, torch.Tensor]:
    """A state dict like a released one: all heads and the tracking head."""
    torch.manual_seed(1)
    state = {name: torch.randn_like(value) for name, value in build().state_dict().items()}
    return state | {'track_head.tracker.updateformer.virual_tracks': torch.zeros(1, 4)}


def save(content: object, path: Path) -> Path:
    if path.suffix == '.safetensors':
        save_file(content, path)
    else:
        torch.save(content, path)
    return path


def assert_loaded(network: VGGTBackbone, official: dict[str, torch.Tensor]) -> None:
    for name, value in network.state_dict().items():
        assert torch.equal(value, official[name]), name


@pytest.mark.parametrize('name', ['model.safetensors', 'model.pt'])
def test_flat_files_load(official, tmp_path, name):
    network = build(save(official, tmp_path / name))
    network.init_weights()
    assert_loaded(network, official)


def test_weights_under_model_load_beside_other_content(official, tmp_path):
    content = {'args': argparse.Namespace(model='VGGT()', out=Path('runs')), 'epoch': 3, 'optimizer': {'state': {}}}
    network = build(save(content | {'model': official}, tmp_path / 'checkpoint.pt'))
    network.init_weights()
    assert_loaded(network, official)


def test_weights_of_parallel_training_load(official, tmp_path):
    wrapped = {f'module.{name}': value for name, value in official.items()}
    network = build(save({'state_dict': wrapped}, tmp_path / 'checkpoint.pt'))
    network.init_weights()
    assert_loaded(network, official)


def test_old_pytorch_files_load(official, tmp_path):
    torch.save(official, tmp_path / 'old.pt', _use_new_zipfile_serialization=False)
    network = build(tmp_path / 'old.pt')
    network.init_weights()
    assert_loaded(network, official)


def test_heads_that_are_not_built_are_left_out(official, tmp_path):
    network = build(save(official, tmp_path / 'model.safetensors'), heads=('camera', 'depth'))
    network.init_weights()
    assert_loaded(network, official)


def test_left_out_weights_are_reported(official, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr('pano3d.models.backbones.base.print_log', lambda text, **_: said.append(text))
    build(save(official, tmp_path / 'model.safetensors'), heads=('camera', 'depth')).init_weights()
    assert any('left out 1 weights track_head.* (Pano3D does not track points)' in text for text in said)
    assert any("point_head.* (`heads` has no 'point')" in text for text in said)


def test_a_model_around_it_loads_the_file_too(official, tmp_path):
    """As the runner does: `init_weights` of the whole model."""

    class Model(BaseModule):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = build(save(official, tmp_path / 'model.safetensors'))
            self.layer = torch.nn.Linear(2, 2)

    model = Model()
    model.init_weights()
    assert_loaded(model.backbone, official)


def test_initialising_twice_keeps_what_was_trained(official, tmp_path):
    network = build(save(official, tmp_path / 'model.safetensors'))
    network.init_weights()
    with torch.no_grad():
        network.aggregator.camera_token.fill_(5)
    network.init_weights()
    assert (network.aggregator.camera_token == 5).all()


def test_other_initialisers_follow_the_host(tmp_path):
    network = build(init_cfg={'type': 'Constant', 'layer': 'Linear', 'val': 0.5})
    network.init_weights()
    assert (network.aggregator.frame_blocks[0].attn.qkv.weight == 0.5).all()


def refusal(path: Path, **changes) -> str:
    with pytest.raises(ValueError) as error:
        build(path, **changes).init_weights()
    return str(error.value)


def test_missing_unexpected_and_misshapen_weights_are_explained_at_once(official, tmp_path):
    del official['camera_head.token_norm.weight']
    official['surprise.weight'] = torch.zeros(1)
    official['aggregator.camera_token'] = torch.zeros(1, 2, 1, 32)
    path = save(official, tmp_path / 'model.safetensors')
    text = refusal(path)
    assert str(path) in text
    assert '1 missing in camera_head: camera_head.token_norm.weight' in text
    assert '1 unexpected in surprise: surprise.weight' in text
    assert 'aggregator.camera_token: expected (1, 2, 1, 16), found (1, 2, 1, 32)' in text


def test_refused_files_change_nothing(official, tmp_path):
    official['aggregator.camera_token'] = torch.zeros(1, 2, 1, 32)
    network = build(save(official, tmp_path / 'model.safetensors'))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ValueError, match='1 of another shape in aggregator'):
        network.init_weights()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_file_without_the_head_that_the_config_wants_is_refused(official, tmp_path):
    state = {name: value for name, value in official.items() if not name.startswith('point_head.')}
    path = save(state, tmp_path / 'model.safetensors')
    assert 'missing in point_head' in refusal(path)
    build(path, heads=('camera', 'depth')).init_weights()


def test_values_that_are_not_finite_are_refused(official, tmp_path):
    official['aggregator.camera_token'][0, 0, 0, 3] = float('nan')
    path = save(official, tmp_path / 'model.safetensors')
    assert '1 weights have NaN or infinite values: aggregator.camera_token' in refusal(path)


def test_files_that_are_no_weights_are_refused_by_name(tmp_path):
    pointer = tmp_path / 'pointer.safetensors'
    pointer.write_text('version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n')
    page = tmp_path / 'page.pt'
    page.write_text('<html>not found</html>')
    empty = tmp_path / 'empty.pt'
    empty.touch()
    for path in (pointer, page, empty):
        text = refusal(path)
        assert str(path) in text
        assert 'cannot be read safely' in text
    listed = save([torch.zeros(1)], tmp_path / 'list.pt')
    assert 'expected tensors by name' in refusal(listed)
    assert 'found list' in refusal(listed)
    nested = save({'weights': {'a': torch.zeros(1)}}, tmp_path / 'nested.pt')
    assert 'found a dict with weights' in refusal(nested)
    assert 'no such file' in refusal(tmp_path / 'absent.pt')


class Payload:
    """A pickle that would run code when read without care."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return Path.touch, (self.marker,)


def test_pickled_code_is_not_run(tmp_path):
    marker = tmp_path / 'ran'
    path = save({'model': Payload(marker)}, tmp_path / 'bad.pt')
    assert 'cannot be read safely' in refusal(path)
    assert not marker.exists()


def test_pretrained_beside_other_initialisers_is_refused(tmp_path):
    config = [{'type': 'Constant', 'layer': 'Linear', 'val': 0.5}, {'type': 'Pretrained', 'checkpoint': 'x.pt'}]
    with pytest.raises(ValueError, match='alone to load weights'):
        build(init_cfg=config).init_weights()
    with pytest.raises(ValueError, match='alone to load weights'):
        build(init_cfg={'type': 'Pretrained', 'checkpoint': 'x.pt', 'prefix': 'a.'}).init_weights()


def test_addresses_are_downloaded_once_under_their_full_name(official, tmp_path, monkeypatch):
    """Two repositories call their file `model.safetensors`; neither may take the other's place."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    served = tmp_path / 'served'
    other = {name: value + 1 for name, value in official.items()}
    for repository, state in (('one', official), ('two', other)):
        (served / repository).mkdir(parents=True)
        save(state, served / repository / 'model.safetensors')
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=served)
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            address = f'http://127.0.0.1:{server.server_port}'
            for repository, state in (('one', official), ('two', other)):
                network = build(f'{address}/{repository}/model.safetensors')
                network.init_weights()
                assert_loaded(network, state)
            (served / 'one' / 'model.safetensors').unlink()
            build(f'{address}/one/model.safetensors').init_weights()
            assert 'cannot be downloaded' in refusal(f'{address}/three/model.safetensors')
        finally:
            server.shutdown()
            thread.join()
