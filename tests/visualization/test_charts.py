"""Charts of an evaluation show the numbers they are given."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pano3d.visualization.charts import draw_class_bars, draw_confusion


def test_bars_are_the_scores_best_first():
    [axes] = draw_class_bars({'wall': 0.25, 'floor': math.nan, 'chair': 0.75}, 'IoU').axes
    assert [bar.get_width() for bar in axes.patches] == [0.75, 0.25, 0.0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ['chair', 'wall', 'floor (undefined)']
    assert [text.get_text() for text in axes.texts] == ['0.750', '0.250', '']
    assert axes.yaxis_inverted()


def test_confusion_is_shares_of_the_true_class():
    matrix = np.array([[3, 1, 0, 0], [0, 0, 0, 0], [2, 0, 2, 0], [0, 0, 0, 0]])
    axes = draw_confusion(matrix, ['wall', 'floor', 'chair', 'void']).axes[0]
    assert axes.images[0].get_array().tolist() == [[0.75, 0.25, 0.0], [0.5, 0.0, 0.5]]
    assert [label.get_text() for label in axes.get_yticklabels()] == ['wall', 'chair']
    assert [label.get_text() for label in axes.get_xticklabels()] == ['wall', 'floor', 'chair']


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match='at least one class'):
        draw_class_bars({}, 'IoU')
    with pytest.raises(ValueError, match=r'must have shape \(2, 2\)'):
        draw_confusion(np.zeros((3, 3)), ['wall', 'floor'])
