"""The VGGT demo whose views exchange features in 3D; without: ../pano3d_vggt_demo.py, same budget."""

_base_ = '../pano3d_vggt_demo.py'

model = dict(head=dict(refinement=dict(type='SparseRefinement', dim=128, voxel_size=0.1)))
