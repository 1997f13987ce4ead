# Made-up rooms with 20 to 60 objects, many equal and side by side (tools/make_synthetic_scannet.py --crowded).
_base_ = 'synthetic_rooms.py'

train_dataloader = dict(dataset=dict(data_root='data/crowded_rooms/train'))
val_dataloader = dict(dataset=dict(data_root='data/crowded_rooms/held_out'))
test_dataloader = val_dataloader
