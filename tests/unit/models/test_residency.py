"""Moving parts between host memory and the device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from imagegen_server.core import Stage
from imagegen_server.models.memory.residency import LAYOUTS, STAGE_PARTS, Swapper

DEVICE = torch.device("meta")
"""Stands for a GPU: tensors can be there and nowhere else, and it is everywhere at hand."""
NAMES = sorted(frozenset[str]().union(*STAGE_PARTS.values()))


class Movable(nn.Linear):
    """A module that can come back from the meta device, as tensors do from a GPU, and notes where it was sent."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.sent: list[str] = []

    def to(self, *args: Any, **kwargs: Any) -> Movable:
        """Moves the module and writes it down."""
        target = torch.device(args[0])
        self.sent.append(target.type)
        if target.type == "cpu" and self.weight.is_meta:
            return self.to_empty(device=target)
        return super().to(*args, **kwargs)


def parts_on_device(parts: dict[str, Movable]) -> set[str]:
    """Names of the parts that are on the device."""
    return {name for name, part in parts.items() if part.weight.device == DEVICE}


@pytest.mark.parametrize("layout", LAYOUTS[1:], ids=["unets", "stages"])
def test_each_stage_finds_its_parts_and_no_other_group(layout: Any) -> None:
    """Whatever came before: the stage's own parts are there, and of the swapped groups only one."""
    parts = {name: Movable() for name in NAMES}
    swapper = Swapper(layout, parts, DEVICE)
    permanent = set(NAMES) - frozenset[str]().union(*layout.groups)
    assert parts_on_device(parts) == permanent
    for stage in (*STAGE_PARTS, *reversed([*STAGE_PARTS]), Stage.BASE, Stage.VAE_DECODE, Stage.BASE):
        swapper.activate(stage)
        present = parts_on_device(parts)
        assert STAGE_PARTS[stage] <= present
        assert present - permanent in (frozenset(), *layout.groups)


def test_a_stage_that_is_active_moves_nothing() -> None:
    """Steps of one stage follow each other without a transfer."""
    parts = {name: Movable() for name in NAMES}
    swapper = Swapper(LAYOUTS[2], parts, DEVICE)
    swapper.activate(Stage.BASE)
    moves = {name: len(part.sent) for name, part in parts.items()}
    swapper.activate(Stage.BASE)
    assert {name: len(part.sent) for name, part in parts.items()} == moves


def test_text_and_decoding_leave_the_unets_where_they_are_when_only_unets_are_swapped() -> None:
    """Between two steps of a stage others may be encoded or decoded at no cost."""
    parts = {name: Movable() for name in NAMES}
    swapper = Swapper(LAYOUTS[1], parts, DEVICE)
    swapper.activate(Stage.REFINER)
    moves = {name: len(part.sent) for name, part in parts.items()}
    for stage in (Stage.TEXT_ENCODE, Stage.VAE_DECODE, Stage.REFINER):
        swapper.activate(stage)
    assert {name: len(part.sent) for name, part in parts.items()} == moves
    assert parts_on_device(parts) & {"base.unet", "refiner.unet"} == STAGE_PARTS[Stage.REFINER]


def test_a_pair_without_a_refiner_is_swapped_too() -> None:
    """The parts that are not loaded are not asked for."""
    parts = {name: Movable() for name in NAMES if name != "refiner.unet"}
    swapper = Swapper(LAYOUTS[2], parts, DEVICE)
    swapper.activate(Stage.TEXT_ENCODE)
    swapper.activate(Stage.BASE)
    assert parts_on_device(parts) == {"base.unet"}


def test_a_swapped_part_computes_on_the_device_it_was_brought_to() -> None:
    """accelerate's hook leaves the module callable where it is."""
    parts = {name: Movable() for name in NAMES}
    swapper = Swapper(LAYOUTS[2], parts, DEVICE)
    swapper.activate(Stage.BASE)
    assert parts["base.unet"](torch.empty(1, 2, device=DEVICE)).device == DEVICE


def test_a_part_that_does_not_fit_is_not_taken_for_one_that_is_there() -> None:
    """A transfer that breaks off half-way is begun anew, and what had come before it makes room."""

    class Large(Movable):
        fits = False

        def to(self, *args: Any, **kwargs: Any) -> Any:
            if torch.device(args[0]) == DEVICE and not self.fits:
                self.weight = nn.Parameter(self.weight.to(DEVICE))  # the first of its parameters is there
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return super().to(*args, **kwargs)

    parts: dict[str, Movable] = {name: Movable() for name in NAMES}
    parts["text_encoder_2"] = large = Large()
    swapper = Swapper(LAYOUTS[2], parts, DEVICE)
    for _ in range(2):
        with pytest.raises(torch.OutOfMemoryError):
            swapper.activate(Stage.TEXT_ENCODE)
        assert parts_on_device(parts) == set()
    large.fits = True
    swapper.activate(Stage.TEXT_ENCODE)
    assert parts_on_device(parts) == STAGE_PARTS[Stage.TEXT_ENCODE]


class Copied(nn.Linear):
    """A module whose device is another place in host memory; notes what is copied back from there."""

    def __init__(self) -> None:
        super().__init__(2, 3)
        self.register_buffer("running", torch.ones(3))
        self.on_device: set[int] = set()
        self.returned: list[torch.Tensor] = []

    def tensors(self) -> list[torch.Tensor]:
        """Parameters and buffer."""
        return [*self.parameters(), *self.buffers()]

    def to(self, *args: Any, **_: Any) -> Copied:
        """Copies what is not yet where it is sent."""
        there = args[0] != "cpu"
        for tensor in self.tensors():
            if there != (tensor.data_ptr() in self.on_device):
                tensor.data = tensor.data.clone()
                if there:
                    self.on_device.add(tensor.data_ptr())
                else:
                    self.returned.append(tensor)
        return self


def test_weights_that_were_copied_to_the_device_are_not_copied_back() -> None:
    """They are only read: what waits in host memory is still right, and is what the module has again."""
    part = Copied()
    waiting = [tensor.data for tensor in part.tensors()]
    swapper = Swapper(LAYOUTS[1], {"base.unet": part, "refiner.unet": Copied()}, torch.device("cpu", 0))
    for _ in range(2):
        swapper.activate(Stage.BASE)
        assert all(tensor.data_ptr() in part.on_device for tensor in part.tensors())
        swapper.activate(Stage.REFINER)
        assert [tensor.data_ptr() for tensor in part.tensors()] == [data.data_ptr() for data in waiting]
    assert part.returned == []


def test_weights_that_were_laid_out_anew_on_the_device_stay_so() -> None:
    """As for channels last: code that was compiled for that layout finds it again."""
    part = Copied()
    swapper = Swapper(LAYOUTS[1], {"base.unet": part, "refiner.unet": Copied()}, torch.device("cpu", 0))
    swapper.activate(Stage.BASE)
    part.weight.data = part.weight.data.t().contiguous().t()
    part.on_device.add(part.weight.data_ptr())
    swapper.activate(Stage.REFINER)
    assert part.weight.stride() == (1, 3)
    assert [id(tensor) for tensor in part.returned] == [id(part.weight)]
