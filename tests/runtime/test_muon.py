"""Muon: a step turns all directions of a matrix equally, and is AdamW's for what is no matrix."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from lamp_lightning.runtime.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(24, 24), (8, 40), (40, 8), (12, 6, 3), (8, 4, 3, 3)])
def test_a_step_has_all_directions_alike(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert orthogonal(matrix).shape == matrix.shape
    values = torch.linalg.svdvals(orthogonal(matrix).flatten(1))
    assert values.min() > 0.6
    assert values.max() < 1.25
    sides = torch.linalg.svd(matrix.flatten(1), full_matrices=False)
    nearest = sides.U @ sides.Vh
    cosine = torch.nn.functional.cosine_similarity(orthogonal(matrix).flatten(), nearest.flatten(), dim=0)
    assert cosine > 0.98


def test_a_convolution_counts_as_a_matrix():
    weight = torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(0))
    gradient = torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(1))
    convolution, matrix = nn.Parameter(weight.clone()), nn.Parameter(weight.flatten(1).clone())
    convolution.grad, matrix.grad = gradient, gradient.flatten(1)
    for parameter in (convolution, matrix):
        Muon([parameter], lr=0.1).step()
    assert torch.equal(convolution.flatten(1), matrix)


def test_a_step_is_as_large_as_one_of_adamw():
    parameter = nn.Parameter(torch.zeros(32, 64))
    parameter.grad = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    Muon([parameter], lr=0.1, weight_decay=0).step()
    root_mean_square = parameter.detach().square().mean().sqrt()
    assert 0.8 < root_mean_square / (0.1 * 0.2) < 1.2  # AdamW's is about a fifth of its rate


def test_what_is_no_matrix_goes_as_with_adamw():
    start = torch.randn(10, generator=torch.Generator().manual_seed(0))
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    mine = Muon([ours], lr=0.01, weight_decay=0.1)
    reference = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)
    for step in range(5):
        for parameter, optimizer in ((ours, mine), (theirs, reference)):
            parameter.grad = torch.randn(10, generator=torch.Generator().manual_seed(step))
            optimizer.step()
    assert torch.allclose(ours, theirs, atol=1e-7)


def test_a_loaded_state_goes_on_to_the_bit():
    def gradients(layer: nn.Module, step: int) -> None:
        generator = torch.Generator().manual_seed(step)
        for parameter in layer.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)

    layer = nn.Linear(6, 5)
    through, resumed = layer, copy.deepcopy(layer)
    optimizer = Muon(through.parameters(), lr=0.1)
    for step in range(2):
        gradients(through, step)
        optimizer.step()
    resumed.load_state_dict(copy.deepcopy(through.state_dict()))
    second = Muon(resumed.parameters(), lr=0.1)
    second.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for model, each in ((through, optimizer), (resumed, second)):
        gradients(model, 2)
        each.step()
    assert torch.equal(through.weight, resumed.weight)
    assert torch.equal(through.bias, resumed.bias)


def test_parameters_without_gradient_stay():
    layer = nn.Linear(4, 4)
    before = copy.deepcopy(layer.state_dict())
    Muon(layer.parameters(), lr=math.pi).step()
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())


def test_a_group_can_say_that_none_of_its_parameters_is_a_matrix():
    start = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    mine = Muon([{"params": [ours], "matrices": False, "lr": 0.01}], lr=0.04, weight_decay=0.1)
    reference = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)
    for parameter, optimizer in ((ours, mine), (theirs, reference)):
        parameter.grad = torch.ones(3, 4)
        optimizer.step()
    assert torch.allclose(ours, theirs, atol=1e-7)
