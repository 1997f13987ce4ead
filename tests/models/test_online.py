"""Oracles: everything rendered at once, a network that records what it is asked, and a count of live memory."""

import json

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from pano3d.models import MUSt3RBackbone
from pano3d.models.backbones import Tokens
from pano3d.models.keyframes import CoverageKeyframes, EveryNthKeyframes, KeyframePolicy, LinspaceKeyframes
from pano3d.models.online import reconstruct_online, remember_keyframes, render_in_chunks

SIZE = (16, 24)


def build():
    torch.manual_seed(0)
    return MUSt3RBackbone(
        patch_size=4,
        encoder_dim=16,
        encoder_depth=1,
        encoder_heads=2,
        decoder_dim=24,
        decoder_depth=2,
        decoder_heads=3,
        max_keyframes=4,
    ).eval()


def random_frames(count):
    return torch.rand(count, 3, *SIZE, generator=torch.Generator().manual_seed(0))


class LazyFrames:
    """Made when they are read."""

    def __init__(self, count):
        self.count = count
        self.read = []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.read.append(index)
        return torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(index))


class Chosen(KeyframePolicy):
    def __init__(self, *frames, look=()):
        self.frames = frames
        self.look = look

    def choose(self, num_frames, render):
        for index in self.frames:
            yield index
            if index in self.look:
                render(index)


@torch.no_grad()
@pytest.mark.parametrize('chunk_size', [1, 3, 100])
def test_chunks_equal_everything_at_once(chunk_size):
    network, frames = build(), random_frames(10)
    encoded = network.encode(frames[None])
    expected = network.reconstruct(network.regress(encoded, network.decode(encoded), SIZE))[0]
    found = reconstruct_online(network, frames, keyframes=LinspaceKeyframes(4), chunk_size=chunk_size)
    for name in ('points', 'local_points', 'confidence', 'camera_to_world', 'intrinsics'):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-3, atol=1e-4)
    assert torch.equal(found.valid, expected.valid)


def test_any_iterable_will_do():
    network, frames = build(), random_frames(5)
    expected = reconstruct_online(network, frames).points
    for other in (list(frames), (frame for frame in frames)):
        torch.testing.assert_close(reconstruct_online(network, other).points, expected)


def test_chunks_carry_what_a_head_reads():
    network, frames = build(), random_frames(7)
    remembered = remember_keyframes(network, frames, keyframes=EveryNthKeyframes(3))
    memory, encoded = remembered.memory, remembered.encoded
    assert sorted(encoded) == [0, 3, 6]
    chunks = list(render_in_chunks(network, memory, frames, encoded=encoded, chunk_size=2))
    assert [chunk.indices for chunk in chunks] == [(0, 3), (6,), (1, 2), (4, 5)]
    for chunk in chunks:
        images = frames[list(chunk.indices)][None]
        with torch.no_grad():
            tokens = network.encode(images)
            torch.testing.assert_close(chunk.encoded.patches, tokens.patches)
            torch.testing.assert_close(chunk.decoded.patches, network.render(memory, tokens).patches)
        assert chunk.prediction['points'].shape == (1, len(chunk.indices), *SIZE, 3)
        assert not chunk.decoded.patches.requires_grad
    plain = list(render_in_chunks(network, memory, frames, chunk_size=4))
    assert [chunk.indices for chunk in plain] == [(0, 1, 2, 3), (4, 5, 6)]


@pytest.mark.parametrize(
    ('look', 'update_batches', 'expected'),
    [
        ((), (2, 1), [2, 1, 1]),
        ((), (1,), [1, 1, 1, 1]),
        ((), (3,), [3, 1]),
        ((), (1, 2, 5), [1, 2, 1]),
        ((0,), (2, 1), [1, 1, 1, 1]),
        ((5,), (4,), [3, 1]),
    ],
)
def test_keyframes_enter_batch_by_batch(look, update_batches, expected, monkeypatch):
    """A frame that is looked at lets those before it enter at once."""
    network, calls = build(), []
    update = network.update
    monkeypatch.setattr(
        network, 'update', lambda memory, tokens: (calls.append(len(tokens)), update(memory, tokens))[1]
    )
    policy = Chosen(0, 2, 5, 6, look=look)
    memory = remember_keyframes(network, random_frames(8), keyframes=policy, update_batches=update_batches).memory
    assert calls == expected
    assert memory.num_images == 4


def test_a_policy_sees_the_keyframes_so_far():
    network, frames, seen = build(), random_frames(6), {}

    class Watching(KeyframePolicy):
        def choose(self, num_frames, render):
            assert num_frames == 6
            yield 0
            seen[1] = render(1)
            yield 1
            seen[2] = render(2)

    remember_keyframes(network, frames, keyframes=Watching())
    with torch.no_grad():
        encoded = [network.encode(frame[None, None]) for frame in frames]
        memory = None
        for index in (1, 2):
            memory, _ = network.update(memory, encoded[index - 1])
            rendered = network.render(memory, encoded[index])
            expected = network.regress(encoded[index], rendered, SIZE)['points'][0]
            torch.testing.assert_close(seen[index].points, expected)


def test_coverage_policy_runs_on_a_network():
    """A threshold of 0 is always reached, one of 1 hardly ever: one keyframe, or as many as are allowed."""
    network, frames = build(), LazyFrames(6)
    none_new = CoverageKeyframes(min_coverage=0.0)
    assert sorted(remember_keyframes(network, frames, keyframes=none_new).encoded) == [0]
    all_new = CoverageKeyframes(min_coverage=1.0, tolerance=1e-9, max_keyframes=3)
    assert sorted(remember_keyframes(network, frames, keyframes=all_new).encoded) == [0, 1, 2]


def test_frames_are_read_once_per_pass():
    frames = LazyFrames(9)
    reconstruct_online(build(), frames, keyframes=EveryNthKeyframes(4), chunk_size=2)
    assert sorted(frames.read) == list(range(9))


def render_all(network, memory, count):
    for _ in render_in_chunks(network, memory, LazyFrames(count), chunk_size=4):
        pass  # the chunks are dropped at once


def peak_of_rendering(network, memory, count, tmp_path):
    """Largest number of bytes that rendering had allocated at a time."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        render_all(network, memory, count)
    path = tmp_path / f'{count}.json'
    recorded.export_chrome_trace(str(path))
    events = [event for event in json.loads(path.read_text())['traceEvents'] if event.get('name') == '[memory]']
    live, peak = {}, 0
    for event in sorted(events, key=lambda event: event['ts']):
        size, address = event['args']['Bytes'], event['args']['Addr']
        if size > 0:
            live[address] = size
            peak = max(peak, sum(live.values()))
        else:
            live.pop(address, None)  # what was there before does not count
    return peak


def test_a_hundred_frames_cost_memory_of_one_chunk(tmp_path):
    network = build()
    memory = remember_keyframes(network, random_frames(4), keyframes=LinspaceKeyframes(4)).memory
    render_all(network, memory, 4)  # tables that are kept
    peaks = [peak_of_rendering(network, memory, count, tmp_path) for count in (20, 100)]
    assert peaks[0] > 4 * SIZE[0] * SIZE[1] * 7 * 4  # it did see the outputs of a chunk
    assert peaks[1] <= 1.03 * peaks[0]


def test_results_are_where_they_were_wanted():
    found = reconstruct_online(build(), random_frames(3), offload='meta')
    assert {getattr(found, name).device.type for name in ('points', 'intrinsics', 'valid')} == {'meta'}


@pytest.mark.parametrize(
    ('frames', 'error', 'message'),
    [
        ([], ValueError, 'no frame was given'),
        (iter([]), ValueError, 'no frame was given'),
        ([torch.rand(3, *SIZE), torch.rand(3, 24, 16)], ValueError, r'frame 1 must have shape \(3, 16, 24\)'),
        ([torch.rand(1, 3, *SIZE)], ValueError, r'frame 0 must have shape \(3, H, W\)'),
        ([torch.rand(3, *SIZE).numpy()], TypeError, 'frame 0 must be a tensor .* got ndarray'),
        ([torch.rand(3, 15, 24)], ValueError, r'frames \[0\]: .* multiples of the patch size 4, got 15x24'),
        ([torch.full((3, *SIZE), torch.nan)], ValueError, r'frames \[0\]: `images` must be finite'),
    ],
)
def test_wrong_frames_are_refused_by_name(frames, error, message):
    with pytest.raises(error, match=message):
        reconstruct_online(build(), frames)


def test_an_empty_memory_and_an_empty_chunk_are_refused():
    with pytest.raises(ValueError, match='the memory is empty'):
        next(render_in_chunks(build(), None, random_frames(2)))
    with pytest.raises(ValueError, match='`chunk_size` must be at least 1, got 0'):
        next(render_in_chunks(build(), None, random_frames(2), chunk_size=0))


@pytest.mark.parametrize('update_batches', [(), (2, 0)])
def test_empty_batches_are_refused(update_batches):
    with pytest.raises(ValueError, match='`update_batches` must be numbers of keyframes from 1'):
        remember_keyframes(build(), random_frames(2), keyframes=LinspaceKeyframes(2), update_batches=update_batches)


def test_tokens_of_keyframes_are_those_of_the_frames():
    network, frames = build(), random_frames(3)
    encoded = remember_keyframes(network, frames, keyframes=LinspaceKeyframes(3)).encoded
    with torch.no_grad():
        together = network.encode(frames[None])
    for index, tokens in encoded.items():
        assert isinstance(tokens, Tokens)
        torch.testing.assert_close(tokens.patches[:, 0], together.patches[:, index])
