"""The memory plan as a function of sizes."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagegen_server.core import Precision, Residency, Size, Stage
from imagegen_server.errors import DoesNotFit
from imagegen_server.models.memory.plan import (
    HEADROOM,
    MOST_ROWS,
    RESERVE_BYTES,
    SDXL_ACTIVATIONS,
    Activations,
    MemoryRequest,
    Part,
    component_sizes,
    plan_memory,
    working_bytes,
)
from imagegen_server.models.memory.residency import LAYOUTS, STAGE_PARTS
from imagegen_server.models.memory.table import memory_table
from imagegen_server.models.precision import PrecisionChoice

SDXL_PARTS = (
    Part(name="base.unet", parameters=2_567_463_684),
    Part(name="vae", parameters=83_653_863, force_upcast=True),
    Part(name="text_encoder", parameters=123_060_480),
    Part(name="text_encoder_2", parameters=694_659_840),
    Part(name="refiner.unet", parameters=2_259_526_660),
)
NO_WORK = Activations(base_unet=0, refiner_unet=0, vae=0)
RESERVE = RESERVE_BYTES["cuda"]


def request(free: int, precision: Precision = Precision.FP16, **changes: object) -> MemoryRequest:
    """SDXL on a GPU with so many free bytes."""
    plain = MemoryRequest(
        parts=SDXL_PARTS,
        activations=SDXL_ACTIVATIONS,
        native=Size(width=1024, height=1024),
        rows=2,
        precision=PrecisionChoice(precision=precision, reason="the test wants it"),
        device_type="cuda",
        free_bytes=free,
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]  # the fields above


def total(parts: tuple[Part, ...], precision: Precision) -> int:
    """Bytes of all parts."""
    return sum(size.bytes for size in component_sizes(parts, precision))


def test_both_stages_in_fp32_weigh_the_published_sum() -> None:
    """5.73 G parameters with the shared parts counted once: 22.9 GB."""
    assert sum(part.parameters for part in SDXL_PARTS) == 5_728_364_527
    assert total(SDXL_PARTS, Precision.FP32) == 5_728_364_527 * 4


def test_a_vae_that_overflows_is_counted_in_fp32_in_an_fp16_plan() -> None:
    """Every other part takes two bytes for a parameter."""
    sizes = {size.name: size.bytes for size in component_sizes(SDXL_PARTS, Precision.FP16)}
    assert sizes["vae"] == 83_653_863 * 4
    assert sizes["base.unet"] == 2_567_463_684 * 2
    assert {size.name: size.bytes for size in component_sizes(SDXL_PARTS, Precision.BF16)}["vae"] == 83_653_863 * 2


def test_the_fastest_layout_that_fits_is_chosen() -> None:
    """As memory shrinks the plan goes from both resident over swapped UNets to swapped stages, then refuses."""
    chosen = []
    for free in (20, 14, 8):
        planned = plan_memory(request(free * 10**9))
        chosen.append(planned.layout)
        assert planned.plan.weights_bytes + planned.plan.working_bytes <= free * 10**9
    assert chosen == list(LAYOUTS)
    with pytest.raises(DoesNotFit):
        plan_memory(request(5 * 10**9))


def test_what_is_left_to_give_up_has_plans_of_its_own() -> None:
    """For the case that memory runs out all the same: the smaller layouts, with what each takes and why."""
    planned = plan_memory(request(20 * 10**9))
    assert [each.layout for each in (planned, *planned.smaller)] == list(LAYOUTS)
    for each, free in zip(planned.smaller, (14, 8), strict=True):
        chosen = plan_memory(request(free * 10**9)).plan
        assert each.plan == dataclasses.replace(
            chosen, available_bytes=planned.plan.available_bytes, explanation=each.plan.explanation
        )
        assert each.plan.explanation.startswith(planned.plan.explanation)
        assert f"ran out nevertheless, so {each.layout.summary}" in each.plan.explanation
        assert each.smaller == ()
    assert len(plan_memory(request(14 * 10**9)).smaller) == 1
    assert plan_memory(request(40 * 10**9, device_type="cpu")).smaller == ()


def test_swapped_weights_are_the_permanent_parts_and_the_largest_of_the_others() -> None:
    """With only UNets swapped: text encoders, VAE and the larger UNet."""
    plan = plan_memory(request(14 * 10**9)).plan
    sizes = {size.name: size.bytes for size in plan.components}
    assert plan.residency is Residency.SWAP
    assert plan.weights_bytes == sum(sizes.values()) - min(sizes["base.unet"], sizes["refiner.unet"])


def test_the_budget_counts_where_it_is_smaller_than_what_is_free() -> None:
    """The explanation says whose limit it is."""
    planned = plan_memory(request(80 * 10**9, budget_bytes=14 * 10**9))
    assert planned.plan.residency is Residency.SWAP
    assert planned.plan.available_bytes == 14 * 10**9
    assert "14.0 GB allowed by the VRAM budget" in planned.plan.explanation
    assert plan_memory(request(14 * 10**9, budget_bytes=80 * 10**9)).plan.available_bytes == 14 * 10**9


def test_the_explanation_has_precision_reason_and_numbers() -> None:
    """What was chosen, from what, and why."""
    explanation = plan_memory(request(30 * 10**9, Precision.FP32)).plan.explanation
    assert explanation.startswith("fp32 because the test wants it.")
    assert "22.9 GB" in explanation
    assert "30.0 GB free" in explanation
    assert "everything stays on the device" in explanation


@pytest.mark.parametrize(
    ("asked", "remedies"),
    [
        (request(4 * 10**9, Precision.FP32), ["free 7.9 GB more or use a larger device"]),
        (request(8 * 10**9, Precision.FP32), ["free 3.9 GB more or use a larger device", "use precision fp16"]),
        (
            request(80 * 10**9, Precision.FP32, budget_bytes=7 * 10**9),
            ["raise the VRAM budget to 11.9 GB", "use precision fp16"],
        ),
        (
            request(9 * 10**9, Precision.FP32, budget_bytes=6 * 10**9),
            ["free 2.9 GB more or use a larger device, and raise the VRAM budget to 11.9 GB"],
        ),
        (
            request(9 * 10**9, Precision.FP32, budget_bytes=80 * 10**9),
            ["free 2.9 GB more or use a larger device", "use precision fp16"],
        ),
        (
            request(20 * 10**9, Precision.FP32, device_type="cpu"),
            ["free 8.1 GB more or use a larger device", "use precision bf16", "go without the refiner"],
        ),
        (
            request(9 * 10**9, rows=64),
            ["free 15.2 GB more or use a larger device", "lower the row budget to 2"],
        ),
    ],
)
def test_a_refusal_has_the_numbers_and_what_to_change(asked: MemoryRequest, remedies: list[str]) -> None:
    """Needed and available bytes, and each remedy that would be enough, no other."""
    with pytest.raises(DoesNotFit, match=r"needs \d+\.\d GB .*of weights.*1024x1024") as caught:
        plan_memory(asked)
    assert f"1024x1024, {asked.rows} rows at once) when" in str(caught.value)
    assert str(caught.value).split("To change that: ")[1] == "; ".join(remedies) + "."


def test_the_budget_that_a_refusal_asks_for_is_enough() -> None:
    """Following the advice to the digit gives a plan."""
    with pytest.raises(DoesNotFit, match=r"raise the VRAM budget to 11\.9 GB"):
        plan_memory(request(80 * 10**9, Precision.FP32, budget_bytes=10**9))
    advised = request(80 * 10**9, Precision.FP32, budget_bytes=119 * 10**8)
    assert plan_memory(advised).plan.residency is Residency.SWAP


def test_nothing_is_swapped_on_a_cpu() -> None:
    """The parts would wait in the same memory, so what does not fit at once is refused."""
    with pytest.raises(DoesNotFit):
        plan_memory(request(14 * 10**9, device_type="cpu"))


def test_without_the_refiner_its_unet_is_not_counted() -> None:
    """Four parts, and room where there was none."""
    plan = plan_memory(request(14 * 10**9, parts=SDXL_PARTS[:-1])).plan
    assert plan.residency is Residency.BOTH
    assert plan.weights_bytes == total(SDXL_PARTS[:-1], Precision.FP16)


@pytest.mark.parametrize(
    ("width", "height", "rows", "factor"), [(512, 512, 2, 0.25), (1024, 1024, 8, 4), (1024, 512, 2, 0.5)]
)
def test_working_memory_grows_with_pixels_and_rows(width: int, height: int, rows: int, factor: float) -> None:
    """A UNet's activations are proportional to latent pixels and rows."""
    plain = working_bytes(request(0), Stage.BASE) - RESERVE
    other = working_bytes(request(0, native=Size(width=width, height=height), rows=rows), Stage.BASE) - RESERVE
    assert other == pytest.approx(plain * factor, rel=1e-6)


sizes = st.integers(min_value=1, max_value=10**10)


@given(
    counts=st.tuples(sizes, sizes, sizes, sizes, sizes, sizes),
    free=st.integers(min_value=1, max_value=10**11),
    precision=st.sampled_from(list(Precision)),
    upcast=st.booleans(),
)
def test_every_stage_of_every_accepted_plan_fits(
    counts: tuple[int, ...], free: int, precision: Precision, upcast: bool
) -> None:
    """For any sizes: what is on the device in a stage, with its work, stays within what is available."""
    names = [*(part.name for part in SDXL_PARTS), "refiner.text_encoder"]
    parts = tuple(
        Part(name=name, parameters=count, force_upcast=upcast) for name, count in zip(names, counts, strict=True)
    )
    asked = request(free, precision, parts=parts)
    try:
        planned = plan_memory(asked)
    except DoesNotFit:
        smallest = max(
            sum(size.bytes for size in component_sizes(parts, precision) if size.name in STAGE_PARTS[stage])
            + working_bytes(asked, stage)
            for stage in STAGE_PARTS
        )
        assert smallest > free
        return
    stored = {size.name: size.bytes for size in planned.plan.components}
    permanent = stored.keys() - frozenset[str]().union(*planned.layout.groups)
    for stage in STAGE_PARTS:
        resident = permanent | planned.layout.group(stage)
        assert STAGE_PARTS[stage] <= resident
        assert sum(stored[name] for name in resident) + working_bytes(asked, stage) <= free


def test_a_plan_without_activations_asks_for_weights_and_the_reserve() -> None:
    """The two numbers of a plan add up to what it needs."""
    plan = plan_memory(request(80 * 10**9, activations=NO_WORK)).plan
    assert plan.weights_bytes == total(SDXL_PARTS, Precision.FP16)
    assert plan.working_bytes == RESERVE


def test_the_table_of_cards_follows_from_the_plan() -> None:
    """Small cards swap in fp16, large ones hold both in fp32, and what cannot run says so."""
    rows = {line.split("|")[1].strip(): line for line in memory_table(SDXL_PARTS).splitlines()[2:]}
    assert list(rows) == ["8 GB", "12 GB", "16 GB", "24 GB", "32 GB", "80 GB"]
    assert "fp16: swap all parts" in rows["8 GB"]
    assert "fp32: does not fit" in rows["8 GB"]
    assert rows["24 GB"].split("|")[2].strip().startswith("fp32: swap UNets")
    assert rows["24 GB"].split("|")[3].strip().startswith("fp16: both resident")
    assert rows["80 GB"].split("|")[2].strip().startswith("fp32: both resident")


@pytest.mark.parametrize("rows", [2, 8, 32])
def test_what_graphs_keep_is_there_beside_any_work(rows: int) -> None:
    """Their pool stays while a VAE decodes; where UNets take turns, or on a CPU, there are none."""
    asked = request(80 * 10**9, rows=rows)
    pool = rows * 128 * 128 * SDXL_ACTIVATIONS.refiner_unet * 2
    plan = plan_memory(asked).plan
    assert plan.working_bytes == pool + max(working_bytes(asked, stage) for stage in STAGE_PARTS)
    on_cpu = request(80 * 10**9, rows=rows, device_type="cpu")
    assert plan_memory(on_cpu).plan.working_bytes == max(working_bytes(on_cpu, stage) for stage in STAGE_PARTS)
    swapped = request(14 * 10**9, rows=2)
    plan = plan_memory(swapped).plan
    assert plan.working_bytes == max(working_bytes(swapped, stage) for stage in STAGE_PARTS)


def test_what_saves_nothing_is_not_left_to_fall_back_on() -> None:
    """Without a refiner there is nothing to swap the base's UNet with; all parts can still take turns."""
    assert [each.layout for each in plan_memory(request(80 * 10**9)).smaller] == [*LAYOUTS[1:]]
    alone = plan_memory(request(80 * 10**9, parts=SDXL_PARTS[:-1]))
    assert [each.layout for each in alone.smaller] == [LAYOUTS[2]]


@pytest.mark.parametrize("free", [8, 14, 19, 22, 80])
def test_the_most_rows_are_what_still_fits(free: int) -> None:
    """In the same layout; one more would not, unless that is beyond what is reckoned with."""
    planned = plan_memory(request(free * 10**9))
    as_many = plan_memory(request(free * 10**9, rows=planned.most_rows))
    assert as_many.layout is planned.layout
    assert as_many.plan.working_bytes + as_many.plan.weights_bytes <= free * 10**9
    if planned.most_rows == MOST_ROWS:
        return
    try:
        one_more = plan_memory(request(free * 10**9, rows=planned.most_rows + 1))
    except DoesNotFit:
        return
    assert one_more.layout is not planned.layout


@pytest.mark.parametrize(
    ("precision", "device_type", "item", "workspace"),
    [
        (Precision.FP16, "cuda", 4, True),  # this VAE is kept in fp32 then, and convolves in TF32
        (Precision.BF16, "cuda", 2, True),
        (Precision.TF32, "cuda", 4, True),
        (Precision.FP32, "cuda", 4, False),
        (Precision.FP32, "cpu", 4, False),
        (Precision.BF16, "cpu", 2, False),
    ],
)
def test_a_decode_takes_cudnns_workspace_where_there_are_tensor_cores(
    precision: Precision, device_type: str, item: int, workspace: bool
) -> None:
    """In the predicted peak, which has no headroom; what is set aside has, unless the workspace is more."""
    asked = request(80 * 10**9, precision, device_type=device_type)
    pixels = 128 * 128 * item
    tensors = pixels * SDXL_ACTIVATIONS.vae
    most = tensors + (pixels * SDXL_ACTIVATIONS.vae_workspace if workspace else 0)
    plan = plan_memory(asked).plan
    assert plan.predicted_peak_bytes == plan.weights_bytes + most
    reserve = RESERVE_BYTES[device_type]
    assert working_bytes(asked, Stage.VAE_DECODE) == max(int(tensors * HEADROOM), most) + reserve
