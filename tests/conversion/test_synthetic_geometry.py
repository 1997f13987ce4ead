"""The geometry of made-up rooms before it is written: shapes, placement, rays, light, textures."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from pano3d.conversion.ray_casting import RayCaster, camera_rays
from pano3d.conversion.synthetic_rooms import Recording, RecordingOptions, build_room, fixtures, furniture
from pano3d.conversion.synthetic_rooms.appearance import FINISHES, Decorator
from pano3d.conversion.synthetic_rooms.categories import RAW_CATEGORIES
from pano3d.conversion.synthetic_rooms.footprints import FloorPlan, corners, footprint, inside_boxes, overlap
from pano3d.conversion.synthetic_rooms.lighting import bake_light
from pano3d.conversion.synthetic_rooms.shapes import (
    box,
    folded_sheet,
    inside_of_box,
    lean_back,
    place,
    prism,
    tessellate,
)
from pano3d.conversion.synthetic_rooms.textures import SIDE, texture_bank

NUM_ROOMS = 20
BUILDERS = {
    name: build
    for module in (furniture, fixtures)
    for name, build in vars(module).items()
    if callable(build) and getattr(build, '__module__', '') == module.__name__ and not name.startswith('_')
}
WIDTHS = {'kitchen_counter': 2.0, 'wall_cabinet': 1.5, 'shower_curtain': 0.8}


def specimen(name: str, seed: int) -> furniture.Furniture:
    rng = np.random.default_rng(seed)
    decorator = Decorator(rng)
    if name == 'counter_with_sink':
        return BUILDERS[name](rng, decorator, width=1.0, depth=0.6, height=0.9, cabinet='cabinet')
    return BUILDERS[name](rng, decorator, **({'width': WIDTHS[name]} if name in WIDTHS else {}))


def enclosed_volume(quads: np.ndarray) -> float:
    """Divergence theorem over both triangles of each quad; positive where normals point outwards."""
    a, b, c, d = quads.transpose(1, 0, 2)
    return float((np.cross(b, c) * a).sum() + (np.cross(c, d) * a).sum()) / 6


def quad_area(quads: np.ndarray) -> np.ndarray:
    a, b, c, d = quads.transpose(1, 0, 2)
    return (np.linalg.norm(np.cross(b - a, c - a), axis=1) + np.linalg.norm(np.cross(c - a, d - a), axis=1)) / 2


def share_area(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two quads lie in one plane, face the same way, and an inner point of one is inside the other."""
    normal = np.cross(second[1] - second[0], second[3] - second[0])
    normal /= np.linalg.norm(normal)
    if (
        np.abs((first - second[0]) @ normal).max() > 1e-6
        or np.cross(first[1] - first[0], first[3] - first[0]) @ normal < 0
    ):
        return False
    for a, b in ((first, second), (second, first)):
        s, t = (grid.ravel()[:, None] for grid in np.meshgrid(np.linspace(0.04, 0.96, 9), np.linspace(0.04, 0.96, 9)))
        points = (1 - s) * (1 - t) * a[0] + s * (1 - t) * a[1] + s * t * a[2] + (1 - s) * t * a[3]
        edges = np.roll(b, -1, axis=0) - b
        left = [np.cross(edge, points - corner) @ normal for edge, corner in zip(edges, b, strict=True)]
        if (np.min(left, axis=0) > 1e-9).any():
            return True
    return False


@pytest.fixture(scope='module')
def rooms():
    return [build_room(0, index, spacing=0.3) for index in range(NUM_ROOMS)]


class TestShapes:
    def test_box_faces_outwards_and_basin_inwards(self):
        bounds = (0.5, 2.0), (-1.0, 1.0), (3.0, 3.5)
        assert enclosed_volume(box(*bounds)) == pytest.approx(1.5 * 2 * 0.5)
        sides = ('front', 'back', 'left', 'right', 'top', 'bottom')
        assert enclosed_volume(inside_of_box(*bounds, sides=sides)) == pytest.approx(-1.5)

    def test_sides_are_what_they_are_called(self):
        normals = {}
        for side in ('front', 'back', 'left', 'right', 'top', 'bottom'):
            [[a, b, _, d]] = box((0, 1), (0, 1), (0, 1), sides=[side])
            normals[side] = np.cross(b - a, d - a).round(6).tolist()
        assert normals == {
            'front': [0, 1, 0], 'back': [0, -1, 0], 'left': [-1, 0, 0], 'right': [1, 0, 0], 'top': [0, 0, 1],
            'bottom': [0, 0, -1],
        }  # fmt: skip

    def test_prism_with_a_floor_encloses_an_octagonal_frustum(self):
        low, high, height = 0.5, 0.8, 2.0
        body = prism((0.3, -0.2), (0, height), (low, low), taper=high / low)
        octagon = 2 * np.sqrt(2)  # area over the squared radius
        areas = octagon * low**2, octagon * high**2
        expected = height / 3 * (areas[0] + areas[1] + np.sqrt(areas[0] * areas[1]))
        # Its open bottom lies in z = 0, where it adds nothing to the divergence.
        assert enclosed_volume(body) == pytest.approx(expected)

    def test_folded_sheet_faces_front_and_is_longer_than_its_width(self):
        sheet = folded_sheet((0, 1), (0, 0.1), (0, 2), folds=4)
        a, b, _, d = sheet.transpose(1, 0, 2)
        assert (np.cross(b - a, d - a)[:, 1] > 0).all()
        assert quad_area(sheet).sum() == pytest.approx(2 * 8 * np.hypot(1 / 8, 0.1))

    def test_leaning_and_placing_are_rigid(self):
        body = box((0, 1), (0, 2), (0, 3))
        for moved in (lean_back(body, 0.3, y=1, z=0.5), place(body, position=np.array([1, 2, 3]), yaw=0.7)):
            assert enclosed_volume(moved) == pytest.approx(6)
        top = lean_back(np.array([0.0, 0.0, 1.0]), 0.1, y=0, z=0)
        assert top[1] < 0 < top[2]
        np.testing.assert_allclose(
            place(np.array([1.0, 0, 0]), position=np.zeros(3), yaw=np.pi / 2), [0, 1, 0], atol=1e-12
        )

    def test_tessellation_is_the_same_surface_in_small_pieces(self):
        quads = np.concatenate([box((0, 1), (0, 0.35), (0, 0.05)), prism((2, 0), (0, 1), (0.5, 0.4), taper=0.7)])
        grid = tessellate(quads, 0.12)
        a, b, c = grid.vertices[grid.faces].transpose(1, 0, 2).astype(float)
        area = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2
        per_quad = np.bincount(grid.quad_of_face, area, minlength=len(quads))
        np.testing.assert_allclose(per_quad, quad_area(quads), rtol=1e-5)
        assert (grid.quad_of_vertex[grid.faces] == grid.quad_of_face[:, None]).all()
        assert np.linalg.norm(c - b, axis=1).max() <= 0.12 * np.sqrt(2) + 1e-6
        # Each quad's corners keep their place, and the turning sense is kept.
        for quad, st in itertools.product(range(len(quads)), [(0, 0), (1, 0), (1, 1), (0, 1)]):
            [vertex] = np.flatnonzero((grid.quad_of_vertex == quad) & (grid.st == st).all(1))
            corner = quads[quad][[(0, 0), (1, 0), (1, 1), (0, 1)].index(st)]
            np.testing.assert_allclose(grid.vertices[vertex], corner, atol=1e-6)
        normal = np.cross(quads[:, 1] - quads[:, 0], quads[:, 3] - quads[:, 0])[grid.quad_of_face]
        assert ((np.cross(b - a, c - a) * normal).sum(1) > 0).all()


class TestFurniture:
    @pytest.mark.parametrize('name', sorted(BUILDERS))
    def test_every_specimen_fills_its_box_and_is_planar(self, name):
        for seed in range(8):
            piece = specimen(name, seed)
            size = np.array(piece.size)
            np.testing.assert_allclose(piece.quads.min((0, 1)), [-size[0] / 2, -size[1] / 2, 0], atol=1e-9)
            np.testing.assert_allclose(piece.quads.max((0, 1)), [size[0] / 2, size[1] / 2, size[2]], atol=1e-9)
            assert (size > 0.01).all() and (size < 4).all()
            a, b, c, d = piece.quads.transpose(1, 0, 2)
            assert np.abs((np.cross(b - a, d - a) * (c - a)).sum(1)).max() < 1e-9
            assert quad_area(piece.quads).min() > 1e-5
            assert set(piece.categories) <= set(RAW_CATEGORIES)
            assert sorted(set(piece.object_of_quad.tolist())) == list(range(len(piece.categories)))
            assert len(piece.materials) == len(piece.object_of_quad) == len(piece.quads)

    @pytest.mark.parametrize('name', sorted(BUILDERS))
    def test_no_face_lies_in_another(self, name):
        """Where two faces coincide, chance would decide which one a ray hits."""
        for seed in range(4):
            piece = specimen(name, seed)
            for first, second in itertools.combinations(range(len(piece.quads)), 2):
                if share_area(piece.quads[first], piece.quads[second]):
                    assert piece.materials[first] == piece.materials[second], (first, second)
                    assert piece.object_of_quad[first] == piece.object_of_quad[second], (first, second)

    def test_specimens_differ_but_not_for_one_seed(self):
        assert not np.array_equal(specimen('chair', 0).size, specimen('chair', 1).size)
        np.testing.assert_array_equal(specimen('chair', 0).quads, specimen('chair', 0).quads)

    def test_all_finishes_name_textures(self):
        assert {name for finish in FINISHES.values() for name in finish.textures} <= set(texture_bank().variants)


class TestFootprints:
    def test_overlap_of_hand_placed_boxes(self):
        unit = footprint(0, 0, 0, (1, 1, 1))
        others = np.stack([
            footprint(0.9, 0, 0, (1, 1, 1)),  # overlaps
            footprint(1.0, 0, 0, (1, 1, 1)),  # touches
            footprint(0, 0, 0, (1, 1, 1), low=1.0),  # stands on it
            footprint(1.0, 1.0, np.pi / 4, (1, 1, 1)),  # 0.207 away across the corner
            footprint(1.15, 0, np.pi / 4, (1, 1, 1)),  # its corner pokes in: 0.5 + 0.5 sqrt(2) = 1.207
            footprint(1.25, 0, np.pi / 4, (1, 1, 1)),  # its corner does not reach
        ])  # fmt: skip
        np.testing.assert_array_equal(overlap(unit[None], others)[0], [True, False, False, False, True, False])
        np.testing.assert_array_equal(overlap(others, unit[None])[:, 0], overlap(unit[None], others)[0])
        np.testing.assert_array_equal(overlap(unit[None], others, gap=0.05)[0], [True, True, True, False, True, True])

    def test_overlap_agrees_with_sampled_points(self):
        rng = np.random.default_rng(0)
        pairs = [
            [footprint(*rng.uniform(-0.7, 0.7, 2), rng.uniform(0, 7), rng.uniform(0.3, 1.2, 3)) for _ in range(2)]
            for _ in range(60)
        ]
        found = np.array([overlap(a[None], b[None])[0, 0] for a, b in pairs])
        sampled = np.array([points_in_common(a, b) for a, b in pairs])
        assert found[sampled].all()  # a common point proves overlap
        assert (found & ~sampled).mean() < 0.1 and 0.2 < found.mean() < 0.95  # slivers fall between the samples

    def test_floor_plan_with_a_notch(self):
        plan = FloorPlan(width=5, depth=4, height=2.5, notch=(2, 1.5))
        assert plan.area == pytest.approx(17)
        points = np.array([[1, 1], [4.5, 3.5], [2.9, 3.9], [5.1, 1], [3.1, 2.4], [-0.1, 0.5]])
        np.testing.assert_array_equal(plan.contains(points), [True, False, True, False, True, False])
        np.testing.assert_array_equal(plan.contains(points, margin=0.2), [True, False, False, False, False, False])
        x, y = plan.outline.T
        assert (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2 == pytest.approx(17)  # shoelace, counter-clockwise
        sides = plan.rectangles[:, 2:] - plan.rectangles[:, :2]
        assert sides.prod(1).sum() == pytest.approx(17) and sides.prod(1)[0] >= sides.prod(1)[1]
        boxes = np.stack(
            [footprint(1, 1, 0.3, (1, 1, 1)), footprint(3, 2.5, 0, (1, 1, 1)), footprint(0.4, 1, 0, (1, 1, 1))]
        )
        np.testing.assert_array_equal(plan.holds(boxes), [True, False, False])


def points_in_common(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether any of a grid of points in one box lies in the other, without separating axes."""
    if first[5] >= second[6] or second[5] >= first[6]:
        return False
    for a, b in ((first, second), (second, first)):
        grid = np.linspace(-0.999, 0.999, 25)
        x, y = np.meshgrid(grid * a[3], grid * a[4])
        cosine, sine = np.cos(a[2]), np.sin(a[2])
        world = np.stack([cosine * x - sine * y + a[0], sine * x + cosine * y + a[1]], axis=-1)
        if inside_boxes(world, b[None], margin=-1e-6).any():
            return True
    return False


class TestRooms:
    def test_no_two_pieces_of_furniture_share_a_point(self, rooms):
        for room in rooms:
            for first, second in itertools.combinations(room.items, 2):
                assert not points_in_common(first.box, second.box), (first.furniture, second.furniture)

    def test_furniture_stands_inside_the_room(self, rooms):
        for room in rooms:
            boxes = np.stack([item.box for item in room.items])
            assert room.plan.contains(corners(boxes).reshape(-1, 2)).all()
            assert (boxes[:, 5] >= 0).all() and (boxes[:, 6] < room.plan.height).all()

    def test_mesh_of_every_item_lies_in_its_box_and_keeps_its_category(self, rooms):
        for room in rooms:
            m = room.axis_alignment
            aligned = room.mesh.vertices @ m[:3, :3].T + m[:3, 3]
            number = len(room.plan.outline) + 2
            for item in room.items:
                count = len(item.furniture.categories)
                assert room.categories[number : number + count] == item.furniture.categories
                mine = np.isin(room.mesh.object_of_vertex, np.arange(number, number + count))
                assert inside_boxes(aligned[mine, :2], item.box[None], margin=1e-4).all()
                assert aligned[mine, 2].min() == pytest.approx(item.box[5], abs=1e-4)
                assert aligned[mine, 2].max() == pytest.approx(item.box[6], abs=1e-4)
                number += count
            assert number == len(room.categories)

    def test_walls_floor_and_ceiling_close_the_room(self, rooms):
        for room in rooms:
            shell = room.mesh.object_of_face < len(room.plan.outline) + 2
            a, b, c = room.mesh.vertices[room.mesh.faces[shell]].transpose(1, 0, 2).astype(float)
            volume = (np.cross(b, c) * a).sum() / 6
            assert volume == pytest.approx(-room.plan.area * room.plan.height, rel=1e-4)  # facing inwards

    def test_rooms_are_furnished_with_many_classes(self, rooms):
        instances = Counter(RAW_CATEGORIES[name].nyu40_id for room in rooms for name in room.categories)
        benchmark = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 24, 28, 33, 34, 36, 39}
        assert len(benchmark & set(instances)) >= 18
        assert all(len(room.items) >= 5 for room in rooms)
        assert instances[5] > NUM_ROOMS  # several chairs
        assert len({room.kind.name for room in rooms}) >= 4
        assert len({room.plan.notch == (0.0, 0.0) for room in rooms}) == 2

    def test_the_mesh_gives_labels_fine_enough_to_mean_something(self):
        room = build_room(0, 0, spacing=0.12)
        a, b, c = room.mesh.vertices[room.mesh.faces].transpose(1, 0, 2)
        longest = max(np.linalg.norm(edge, axis=1).max() for edge in (b - a, c - b, a - c))
        assert longest <= 0.12 * np.sqrt(2) + 1e-5  # the diagonal of a grid cell
        assert 5_000 < len(room.mesh.vertices) < 25_000


class TestRays:
    def test_depth_in_a_room_with_one_box_is_that_of_the_slab_method(self):
        """An independent formula: entry into the box, or exit from the room."""
        room, thing = ((0, 5), (0, 4), (0, 2.5)), ((2, 3), (1.5, 2.2), (0, 0.8))
        sides = ('front', 'back', 'left', 'right', 'top', 'bottom')
        grid = tessellate(np.concatenate([inside_of_box(*room, sides=sides), box(*thing)]), 0.2)
        caster = RayCaster(grid.vertices, grid.faces)
        k = np.array([[50.0, 0, 30.2], [0, 55.0, 24.1], [0, 0, 1]])
        pose = np.eye(4)
        pose[:3, :3] = np.array([[0.8, 0.0, 0.6], [-0.6, 0, 0.8], [0, -1, 0]])
        pose[:3, 3] = 1.0, 0.7, 1.4
        directions = camera_rays(k, (64, 48), pose)
        hits = caster.first_hits(np.broadcast_to(pose[:3, 3], directions.shape), directions)
        number = 0
        seen = 0
        for v in range(48):
            for u in range(64):
                ray = pose[:3, :3] @ np.linalg.inv(k) @ np.array([u, v, 1.0])
                low, high = (np.array(thing)[:, end] for end in (0, 1))
                with np.errstate(divide='ignore'):
                    enter = np.min([(low - pose[:3, 3]) / ray, (high - pose[:3, 3]) / ray], axis=0).max()
                    leave = np.max([(low - pose[:3, 3]) / ray, (high - pose[:3, 3]) / ray], axis=0).min()
                    wall = np.max([(0 - pose[:3, 3]) / ray, (np.array([5, 4, 2.5]) - pose[:3, 3]) / ray], axis=0).min()
                on_thing = 0 < enter < leave
                if abs(enter - leave) > 1e-4:  # not exactly along an edge
                    assert hits.depth[number] == pytest.approx(enter if on_thing else wall, abs=2e-5)
                    assert (grid.quad_of_face[hits.face[number]] >= 6) == on_thing
                    seen += on_thing
                number += 1
        assert seen > 100

    def test_barycentric_weights_rebuild_the_hit_and_misses_are_marked(self):
        triangle = np.array([[0, 0, 2], [1, 0, 2], [0, 1, 3]], float)
        caster = RayCaster(triangle, np.array([[0, 1, 2]]))
        hits = caster.first_hits(np.zeros((2, 3)), np.array([[0.1, 0.1, 1.0], [-0.1, 0.1, 1.0]]))
        assert hits.face.tolist() == [0, -1] and hits.depth[1] == 0
        second, third = hits.barycentric[0]
        rebuilt = (1 - second - third) * triangle[0] + second * triangle[1] + third * triangle[2]
        np.testing.assert_allclose(rebuilt, hits.depth[0] * np.array([0.1, 0.1, 1.0]), atol=1e-6)

    def test_occlusion_ends_at_the_given_distance(self):
        caster = RayCaster(np.array([[-9, -9, 2], [9, -9, 2], [0, 9, 2]], float), np.array([[0, 1, 2]]))
        up, distances = np.tile([0.0, 0, 1], (3, 1)), np.array([1.9, 2.1, 9])
        np.testing.assert_array_equal(caster.occluded(np.zeros((3, 3)), up, distances), [False, True, True])


class TestAppearance:
    def test_texture_levels_are_averages_and_repeat(self):
        bank = texture_bank()
        x, y = np.meshgrid((np.arange(SIDE) + 0.5) / SIDE, (np.arange(SIDE) + 0.5) / SIDE)
        uv = np.stack([x, y], axis=-1).reshape(-1, 2)
        texture = np.full(len(uv), bank.variants['painting'][3])
        fine = bank.sample(texture, uv, np.zeros(len(uv), int)).reshape(SIDE, SIDE, 3)
        assert fine.std() > 0.05
        for level in (1, 2, 3):
            coarse = bank.sample(texture, uv - 3, np.full(len(uv), level)).reshape(SIDE, SIDE, 3)
            block = 2**level
            means = fine.reshape(SIDE // block, block, SIDE // block, block, 3).mean((1, 3))
            np.testing.assert_allclose(coarse[block // 2 :: block, block // 2 :: block], means, atol=1e-5)

    def test_drawn_materials_keep_to_their_finish(self):
        decorator = Decorator(np.random.default_rng(0))
        for name in FINISHES:
            decorator.draw(name)
        twin = decorator.draw('drawers', like=0)
        table = decorator.materials()
        bank = texture_bank()
        for number, finish in enumerate(FINISHES.values()):
            assert table.texture[number] in {k for name in finish.textures for k in bank.variants[name]}
            assert (table.tile[number] == 0) == (finish.tile is None)
        np.testing.assert_array_equal(table.tint[twin], table.tint[0])
        assert (table.tint >= 0.03).all() and (table.tint <= 1).all()

    def test_a_class_looks_different_from_room_to_room(self, rooms):
        tints = []
        for room in rooms:
            mesh = room.mesh
            for number, name in enumerate(room.categories):
                if name == 'chair':
                    material = mesh.material_of_vertex[np.argmax(mesh.object_of_vertex == number)]
                    tints.append(tuple(room.materials.tint[material].round(3)))
        assert len(set(tints)) > 5

    def test_floor_under_a_table_is_darker_than_the_open_floor(self, rooms):
        differences = []
        for index, room in enumerate(rooms):
            mesh, m = room.mesh, room.axis_alignment
            light = bake_light(room, RayCaster(mesh.vertices, mesh.faces), seed=0, index=index).mean(1)
            assert np.isfinite(light).all() and (light > 0).all() and light.max() < 2.3
            aligned = mesh.vertices @ m[:3, :3].T + m[:3, 3]
            floor = mesh.object_of_vertex == room.categories.index('floor')
            boxes = np.stack([item.box for item in room.items])
            tables = [item.box for item in room.items if item.furniture.categories[0] in ('table', 'coffee table')]
            open_floor = floor & ~inside_boxes(aligned[:, :2], boxes, margin=0.3)
            for table in tables:
                under = floor & inside_boxes(aligned[:, :2], table[None], margin=-0.1)
                if under.sum() > 3:
                    differences.append(np.median(light[open_floor]) - np.median(light[under]))
        assert len(differences) > 3 and np.min(differences) > 0.05

    def test_views_show_furniture_from_some_distance(self, rooms):
        for index in range(6):
            options = RecordingOptions(num_frames=4, color_size=(40, 30), depth_size=(40, 30), depth_noise=0)
            recording = Recording(rooms[index], seed=0, index=index, options=options)
            for view in recording.views():
                assert (view.objects >= 0).all() and (view.depth > 300).all()
                assert np.median(view.depth) > 900
                assert 20 < view.color.mean() < 245 and view.color.std() > 5
