"""Weights by rule and the factor gamma, against values worked out by hand and gradients taken apart."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pano3d.models.backbones import Tokens
from pano3d.models.balance import (
    FixedGradientFactor,
    GradientBalancedWeights,
    GradientMeter,
    MeasuredGradientFactor,
    UncertaintyWeights,
)


def norms(geometry: float, segmentation: float) -> dict[str, float]:
    return dict(geometry=geometry, segmentation=segmentation)


class TestUncertaintyWeights:
    def make(self, **options: float) -> UncertaintyWeights:
        strategy = UncertaintyWeights(**options)
        strategy.prepare(norms(10.0, 1.0))
        return strategy

    def test_they_start_at_the_weights_of_the_config(self):
        weights, term = self.make()(norms(10.0, 1.0))
        assert [weights[task].item() for task in ('geometry', 'segmentation')] == pytest.approx([10.0, 1.0])
        assert term.item() == pytest.approx(-math.log(10.0) / 2)  # sum of s / 2

    def test_they_tend_to_half_the_inverse_of_the_loss(self):
        strategy = self.make()
        optimizer = torch.optim.Adam(strategy.parameters(), lr=0.05)
        for _ in range(600):
            weights, term = strategy(norms(10.0, 1.0))
            optimizer.zero_grad()
            (weights['geometry'] * 0.2 + weights['segmentation'] * 4.0 + term).backward()
            optimizer.step()
        assert weights['geometry'].item() == pytest.approx(1 / (2 * 0.2), rel=0.02)
        assert weights['segmentation'].item() == pytest.approx(1 / (2 * 4.0), rel=0.02)

    def test_a_loss_below_zero_drives_a_weight_to_the_end_of_its_range_and_it_comes_back(self):
        strategy = self.make(largest_change=3.0)
        optimizer = torch.optim.SGD(strategy.parameters(), lr=0.1)
        seen = []
        for value in [-1.0] * 50 + [1.0] * 200:
            weights, term = strategy(norms(10.0, 1.0))
            optimizer.zero_grad()
            (weights['segmentation'] * value + weights['geometry'] * 0.05 + term).backward()
            optimizer.step()
            seen.append(weights['segmentation'].item())
        assert max(seen) == pytest.approx(3.0)
        assert seen[-1] < 1.0

    def test_a_weight_of_zero_cannot_be_learned(self):
        with pytest.raises(ValueError, match=r"start above 0, got 0.0 for 'geometry'"):
            UncertaintyWeights().prepare(norms(0.0, 1.0))


class TestGradientBalancedWeights:
    def make(self, **options: object) -> GradientBalancedWeights:
        strategy = GradientBalancedWeights(**{'shares': norms(1.0, 1.0), **options})
        strategy.prepare(norms(10.0, 1.0))
        return strategy

    def test_nothing_changes_before_the_first_gradients(self):
        assert self.make()(norms(10.0, 1.0)) == (norms(10.0, 1.0), None)

    def test_gradients_come_to_stand_in_the_proportion_of_the_shares(self):
        strategy = self.make(shares=norms(2.0, 1.0), momentum=0.0)
        # unweighted norms 0.3 and 6: what arrives is weight x norm
        for _ in range(2):
            weights, _ = strategy(norms(10.0, 1.0))
            arriving = norms(0.3 * weights['geometry'], 6.0 * weights['segmentation'])
            strategy.observe(arriving, weights)
        weights, _ = strategy(norms(10.0, 1.0))
        assert weights['geometry'] == 10.0
        assert weights['segmentation'] == pytest.approx(10.0 * 0.3 / 6.0 / 2.0)

    def test_the_average_over_steps_has_the_stated_momentum(self):
        strategy = self.make(momentum=0.75)
        strategy.observe(norms(10.0, 4.0), norms(10.0, 1.0))
        strategy.observe(norms(30.0, 8.0), norms(10.0, 1.0))
        assert strategy.norms.tolist() == pytest.approx([0.75 * 1 + 0.25 * 3, 0.75 * 4 + 0.25 * 8])

    def test_the_change_is_bounded_and_schedules_still_count(self):
        strategy = self.make(largest_change=4.0)
        strategy.observe(norms(1e-6, 1.0), norms(10.0, 1.0))
        assert strategy(norms(10.0, 1.0))[0]['segmentation'] == pytest.approx(0.25)
        assert strategy(norms(10.0, 0.5))[0]['segmentation'] == pytest.approx(0.125)

    def test_a_task_that_sent_nothing_leaves_the_average_alone(self):
        strategy = self.make()
        strategy.observe(norms(1.0, 2.0), norms(1.0, 1.0))
        before = strategy.norms.clone()
        for missing in ({}, {'geometry': 1.0}, norms(1.0, 0.0)):
            strategy.observe(missing, norms(1.0, 1.0))
        assert torch.equal(strategy.norms, before)

    def test_state_survives_a_checkpoint_and_not_a_new_training(self):
        strategy, resumed = self.make(), self.make()
        strategy.observe(norms(1.0, 2.0), norms(1.0, 1.0))
        resumed.load_state_dict(strategy.state_dict())
        resumed.start(5)
        assert resumed(norms(10.0, 1.0)) == strategy(norms(10.0, 1.0)) != (norms(10.0, 1.0), None)
        resumed.start(0)
        assert resumed(norms(10.0, 1.0)) == (norms(10.0, 1.0), None)

    @pytest.mark.parametrize('shares', [dict(segmentation=1.0), norms(1.0, 0.0)])
    def test_shares_without_meaning_are_refused(self, shares):
        with pytest.raises(ValueError, match='`shares` must be positive and have the reference'):
            GradientBalancedWeights(shares=shares)

    def test_a_share_of_an_unknown_task_is_refused(self):
        with pytest.raises(ValueError, match=r"\['detection'\], which have no weight"):
            self.make(shares=norms(1.0, 1.0) | {'detection': 1.0})


class TestMeasuredGradientFactor:
    def test_gamma_is_the_ratio_of_the_mean_norms_of_the_first_steps(self):
        factor = MeasuredGradientFactor(steps=2, initial=0.1)
        factor.observe(norms(1.0, 20.0))
        assert factor.current == pytest.approx(0.1) and factor.measuring
        factor.observe({})  # a step that was skipped
        assert factor.measuring
        factor.observe(norms(3.0, 60.0))
        assert factor.current == pytest.approx(4.0 / 80.0) and not factor.measuring
        factor.observe(norms(100.0, 1.0))
        assert factor.current == pytest.approx(0.05)

    def test_gamma_is_bounded_and_stays_at_its_start_where_nothing_arrives(self):
        bounded, silent = (MeasuredGradientFactor(steps=1, initial=0.2, largest=2.0) for _ in range(2))
        bounded.observe(norms(10.0, 1.0))
        silent.observe(norms(1.0, 0.0))
        assert (bounded.current, silent.current) == pytest.approx((2.0, 0.2))

    def test_it_is_resumed_in_the_middle_and_kept_when_found(self):
        straight, resumed = MeasuredGradientFactor(steps=3), MeasuredGradientFactor(steps=3)
        for ratio in (1.0, 2.0):
            straight.observe(norms(ratio, 4.0))
        resumed.load_state_dict(straight.state_dict())
        resumed.start(2)
        for factor in (straight, resumed):
            factor.observe(norms(6.0, 4.0))
        assert straight.current == resumed.current == pytest.approx(9.0 / 12.0)
        again = MeasuredGradientFactor(steps=3)
        again.load_state_dict(straight.state_dict())
        assert again.current == straight.current and not again.measuring
        again.start(0)
        assert again.measuring and again.current == pytest.approx(0.1)

    @pytest.mark.parametrize('options', [dict(steps=0), dict(initial=0.0), dict(largest=math.inf)])
    def test_meaningless_options_are_refused(self, options):
        with pytest.raises(ValueError, match='must be'):
            MeasuredGradientFactor(**options)

    def test_a_fixed_factor_that_is_none_is_refused(self):
        with pytest.raises(ValueError, match='gradient factor'):
            FixedGradientFactor(value=-0.5)


class TestGradientMeter:
    def test_norms_are_those_of_the_gradients_taken_apart(self):
        torch.manual_seed(0)
        meter = GradientMeter(enabled=True)
        trunk, state = nn.Linear(3, 4), torch.randn(5, 3)
        patches, deep = trunk(state), 2 * trunk(state)
        tokens = Tokens(patches, (1, 5), (deep, deep))

        def geometry(tokens: Tokens) -> torch.Tensor:
            return (tokens.patches**2).sum() + (tokens.layers[0] * tokens.layers[1]).sum()

        own = meter.watch_tokens('geometry', tokens)
        assert own.layers[0] is own.layers[1]
        shared = meter.watch('segmentation', patches)
        assert torch.equal(own.patches, patches) and torch.equal(shared, patches)
        expected = torch.autograd.grad(geometry(tokens), [patches, deep], retain_graph=True)
        (geometry(own) + 3 * shared.sum()).backward()
        found = meter.collect()
        assert found['geometry'] == pytest.approx(math.hypot(*(float(value.norm()) for value in expected)))
        assert found['segmentation'] == pytest.approx(3 * math.sqrt(patches.numel()))
        assert meter.collect() == {}

    def test_gradients_are_left_as_they_are(self):
        x = torch.randn(3, requires_grad=True)
        GradientMeter(enabled=True).watch('geometry', x).square().sum().backward()
        assert torch.equal(x.grad, 2 * x.detach())

    def test_what_is_not_finite_gives_nothing(self):
        meter, x = GradientMeter(enabled=True), torch.ones(2, requires_grad=True)
        (meter.watch('geometry', x) * float('nan')).sum().backward()
        assert meter.collect() == {}

    def test_nothing_is_watched_unless_it_is_wanted(self):
        x = torch.ones(2, requires_grad=True)
        assert GradientMeter().watch('geometry', x) is x
        with torch.no_grad():
            assert GradientMeter(enabled=True).watch('geometry', x) is x
