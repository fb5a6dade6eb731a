"""Every metric of the catalogue against what the callers saw: values, and the sums that must balance."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc
import pytest

from imagegen.v1 import imagegen_pb2 as pb
from imagegen.v1 import imagegen_pb2_grpc as pb_grpc
from imagegen_server.api import new_key
from imagegen_server.telemetry import CATALOGUE
from support.http import get
from support.live_server import LiveServer, Samples, live_server, open_channel
from support.load import NARROW, Ended, generate, read_slowly, request, slow_steps
from support.waiting import SETTLE_SECONDS, eventually

GPU: Final = """{
  "memory_total": 34359738368, "memory_used": 21474836480, "memory_process": 19327352832,
  "utilization": 0.75, "memory_utilization": 0.5, "temperature": 71, "temperature_limit": 90, "power": 300,
  "power_limit": 450, "clock_sm": 2100000000, "clock_memory": 10500000000, "name": "simulated", "driver": "570.1",
  "throttle": {"thermal": 1.0}, "ecc": {"corrected": [[0, 0], [8, 3]], "uncorrected": [[0, 0], [8, 1]]},
  "xids": [[8, 79], [8, 79], [8, 999]], "remap_pending": true, "errors": {"power_limit": "no_permission"},
  "allocator": {"allocated_bytes": 11, "reserved_bytes": 12, "allocated_peak_bytes": 13, "inactive_split_bytes": 14,
                "alloc_retries": 15, "ooms": 16}
}"""
FAKE: Final = '{"evaluation": 0.002, "text_encode": 0.004, "vae_decode": 0.004, "peak_memory_bytes": 7000000000}'
ELSEWHERE: Final = {
    "imagegen_tls_cert_expiry_timestamp_seconds": "tests/unit/api/test_tls.py: absent without TLS",
    "imagegen_gpu_power_limit_watts": "tests/unit/telemetry/test_gpu.py: this GPU does not give it",
}
"""Metrics whose values other tests assert."""
_MODEL: Final = {"model": "fake"}


class Reader:
    """Reads samples and remembers which metrics were asked for."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def __call__(self, samples: Samples, name: str, /, **labels: str) -> float:
        """Returns the sum of the series of a name with these labels, which must exist."""
        assert samples.has(name, **labels), (name, labels)
        self.asked.add(name)
        return samples.total(name, **labels)


@dataclass(kw_only=True)
class Scene:
    """What was done, as the callers saw it, and what the server says of it."""

    calls: list[tuple[pb.GenerateImageRequest, Ended]] = field(default_factory=list)
    messages: int = 0
    """Received by callers of GenerateImage."""
    strangers: tuple[str, ...] = ()
    """Why calls of ListModels were refused."""
    cancels: int = 0
    """Calls of CancelGeneration."""
    seconds: float = 0.0
    stored: tuple[int, int] = (0, 0)
    """Bytes and images in the store."""
    before: Samples
    during: Samples
    """While one generation ran and two waited."""
    reading: Samples
    """While one generation was only being read."""
    after: Samples
    draining: Samples

    def of(self, *outcomes: str) -> list[Ended]:
        """Returns the calls that ended in one of these ways."""
        return [ended for _, ended in self.calls if outcome(ended) in outcomes]


def outcome(ended: Ended) -> str:
    """Returns the value of the label `outcome` that a call must have."""
    if ended.ok:
        return "degraded" if ended.of("fallback") else "ok"
    names = {
        grpc.StatusCode.CANCELLED: "cancelled",
        grpc.StatusCode.DEADLINE_EXCEEDED: "deadline",
        grpc.StatusCode.INTERNAL: "error",
        grpc.StatusCode.INVALID_ARGUMENT: "invalid",
    }
    if ended.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return "error" if ended.accepted else "rejected"
    return names[ended.code]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A server that went through everything, one thing after the other."""
    directory, store = tmp_path_factory.mktemp("server"), tmp_path_factory.mktemp("store")
    known, expired = new_key("alice"), new_key("alice", expires="2020-01-01T00:00:00Z")
    (directory / "keys").write_text(f"{known[1]}\n{expired[1]}\n")
    arguments = (
        *("--queue-capacity=2", "--max-running=2", f"--fake-script={FAKE}", f"--gpu-script={GPU}"),
        *(f"--store={store}", "--images-port=0", "--store-sweep-interval=0.2"),
        *(f"--api-keys={directory / 'keys'}", "--auth-policy=inference=open,info=role:auditor"),
    )
    with live_server(directory, *arguments) as server, open_channel(server.address) as channel:
        errors = ("imagegen_gpu_xid_errors_total", "imagegen_gpu_ecc_errors_total")  # both after the first readings
        eventually(lambda: [*map(server.metrics().total, errors)] == [3, 4], "the GPU's errors never came")
        now = server.metrics()
        made = Scene(before=now, during=now, reading=now, after=now, draining=now)
        began = time.monotonic()
        _play(made, server, channel, known[0])
        _ask_with(made, channel, missing=None, invalid=f"{known[0]}x", expired=expired[0], forbidden=known[0])
        _fetch_and_lose(made, server, store)
        eventually(server.idle, "generations are left in flight")
        made.after, made.seconds = server.metrics(), time.monotonic() - began
        made.draining = _drain(server, channel)
        yield made


def _play(scene: Scene, server: LiveServer, channel: grpc.Channel, key: str) -> None:
    def call(message: pb.GenerateImageRequest, timeout: float | None = None) -> None:
        scene.calls.append((message, generate(channel, message, timeout)))

    call(request("a cat"))
    call(request("a dog", output=pb.OutputOptions(mime_type="image/jpeg"), priority=pb.PRIORITY_BATCH))
    call(request("two birds", num_images=2, output=pb.OutputOptions(mime_type="image/webp")))
    call(request("no refiner", use_refinement=False, guidance_scale=1.0))
    for fault in ("oom", "nan@2", "error"):
        call(request(f"a cat {{refiner:{fault}}}"))
    for fault in ("oom", "nan@3", "error"):
        call(request(f"a cat {{base:{fault}}}"))
    call(request("too late {base:stall=1.5@2}"), timeout=1.0)
    call(request("bad", width=63))
    _cancel(scene, server, channel)
    _crowd(scene, server, channel)
    _share_a_batch_that_does_not_fit(scene, channel, key)
    _read_slowly(scene, server)


def _ask_with(scene: Scene, channel: grpc.Channel, **keys: str | None) -> None:
    """Asks for the models with keys that each are refused for the reason that names them."""
    for key in keys.values():
        shown = () if key is None else (("x-api-key", key),)
        with pytest.raises(grpc.RpcError):
            pb_grpc.ImageGenStub(channel).ListModels(pb.ListModelsRequest(), metadata=shown)
    scene.strangers = tuple(keys)


def _together(*jobs: Callable[[], None]) -> list[threading.Thread]:
    threads = [threading.Thread(target=job) for job in jobs]
    for thread in threads:
        thread.start()
    return threads


def _cancel(scene: Scene, server: LiveServer, channel: grpc.Channel) -> None:
    """Stops a generation in its base stage, in which a step outlasts every cancel that comes late."""
    prompt = f"a long cat {slow_steps(0.05, base=19)}{{base:stall={SETTLE_SECONDS}@19}}"
    message = request(prompt, num_inference_steps=20, request_id="to-be-cancelled")
    (thread,) = _together(lambda: scene.calls.append((message, generate(channel, message))))
    steps = server.metrics().total("imagegen_stage_steps_total")
    eventually(lambda: server.metrics().total("imagegen_stage_steps_total") > steps, "it took no step")
    pb_grpc.ImageGenStub(channel).CancelGeneration(pb.CancelGenerationRequest(request_id=message.request_id))
    scene.cancels += 1
    thread.join()


def _crowd(scene: Scene, server: LiveServer, channel: grpc.Channel) -> None:
    """One runs, two wait, one is refused."""
    messages = [request("crowd {base:stall=4@0}"), request("crowd 1"), request("crowd 2")]

    def one(message: pb.GenerateImageRequest) -> Callable[[], None]:
        return lambda: scene.calls.append((message, generate(channel, message)))

    def waiting() -> tuple[float, float]:
        samples = server.metrics()
        return samples.total("imagegen_requests_in_flight"), samples.total("imagegen_requests_queued")

    threads = _together(one(messages[0]))
    eventually(lambda: waiting() == (1, 0), "the first never ran")
    threads += _together(one(messages[1]), one(messages[2]))
    eventually(lambda: waiting() == (3, 2), "two never waited")
    scene.during = server.metrics()
    refused = request("one too many")
    scene.calls.append((refused, generate(channel, refused)))
    for thread in threads:
        thread.join()


def _share_a_batch_that_does_not_fit(scene: Scene, channel: grpc.Channel, key: str) -> None:
    """Two images in one batch run out of memory: batches become smaller, and the one to blame fails alone.

    One is a tenant's, since strangers leave a place to those.
    """
    fine, faulty = request("fine " + slow_steps(0.1, base=3)), request("faulty {base:stall=0.3@0}{base:oom@10}")
    for thread in _together(
        lambda: scene.calls.append((fine, generate(channel, fine, metadata=(("x-api-key", key),)))),
        lambda: scene.calls.append((faulty, generate(channel, faulty))),
    ):
        thread.join()


def _read_slowly(scene: Scene, server: LiveServer) -> None:
    """Makes the server wait for a reader that takes little ahead."""
    with open_channel(server.address, *NARROW) as channel:
        message = request("a cat {noise}", width=1024, height=1024, num_inference_steps=20)
        ended = Ended(grpc.StatusCode.OK)
        for event in read_slowly(pb_grpc.ImageGenStub(channel).GenerateImage(message)):
            ended.take(event)
            scene.messages += event.WhichOneof("event") == "image_chunk"
            if event.WhichOneof("event") == "image_header":
                eventually(lambda: server.metrics().total("imagegen_requests_delivering") == 1, "it is not delivered")
                scene.reading = server.metrics()
        scene.calls.append((message, ended))


def _fetch_and_lose(scene: Scene, server: LiveServer, store: Path) -> None:
    """Fetches an image that is kept, one that is too old, one that is damaged and one whose store is gone."""
    kept = [image.url for ended in scene.of("ok", "degraded") for image in ended.of("completed")[0].images]
    old, damaged = (store / url.rpartition("/")[2] for url in kept[:2])

    def fetch(url: str) -> int:
        assert server.images_port is not None
        return get(server.images_port, "/images/" + url.partition("/images/")[2]).status

    assert all(kept)
    os.utime(old, (1, 1))
    eventually(lambda: not old.exists(), "the old image was not removed")
    damaged.write_bytes(b"something else")
    statuses = [fetch(url) for url in kept[:3]]
    eventually(lambda: server.metrics().total("imagegen_store_bytes") == weight(store), "the store was not weighed")
    scene.stored = weight(store), len(kept) - 1
    store.rename(store.with_name("away"))
    statuses.append(fetch(kept[2]))
    eventually(lambda: server.metrics().total("imagegen_store_sweep_failing") == 1, "no sweep failed")
    assert statuses == [404, 503, 200, 503]


def weight(store: Path) -> int:
    """Returns the bytes of a directory's images and parameters."""
    return sum(path.stat().st_size for path in store.glob("[!.]*"))


def _drain(server: LiveServer, channel: grpc.Channel) -> Samples:
    """Returns what is said while one generation runs on after SIGTERM; ends with the server."""
    message = request("the last {base:stall=1.5@0}")
    (thread,) = _together(lambda: _ignore(generate(channel, message)))
    eventually(lambda: server.metrics().total("imagegen_requests_in_flight") == 1, "it never ran")
    server.terminate()
    found: list[Samples] = []

    def draining() -> bool:
        found.append(server.metrics())
        return found[-1].total("imagegen_draining") == 1

    eventually(draining, "it never drained")
    thread.join()
    assert server.wait() == 0
    return found[-1]


def _ignore(_: Ended) -> None:
    """What became of it is not of interest."""


def test_the_scene_has_every_outcome(scene: Scene) -> None:
    """Otherwise the sums below would say little."""
    counts = Counter(outcome(ended) for _, ended in scene.calls)
    assert counts == {"ok": 9, "degraded": 3, "error": 4, "deadline": 1, "invalid": 1, "cancelled": 1, "rejected": 1}


def test_every_metric_has_the_value_that_the_callers_saw(scene: Scene) -> None:
    """Each group below asserts values; together they ask for every metric of the catalogue."""
    read = Reader()
    for check in (_calls, _requests, _stages, _delivery, _store, _trouble, _process, _gpu, _allocator):
        check(scene, read)
    suffixes = ("_bucket", "_count", "_sum")
    asked = {name.removesuffix(next((s for s in suffixes if name.endswith(s)), "")) for name in read.asked}
    assert asked | set(ELSEWHERE) == {metric.name for metric in CATALOGUE}


def _calls(scene: Scene, read: Reader) -> None:
    """Calls by status, and conservation: started = handled + in flight."""
    after, method = scene.after, {"grpc_method": "GenerateImage"}
    assert read(after, "grpc_server_started_total", **method) == len(scene.calls)
    assert read(after, "grpc_server_handled_total", **method) == len(scene.calls)
    assert read(after, "grpc_server_msg_received_total", **method) == len(scene.calls)
    codes = Counter("".join(p.capitalize() for p in e.code.name.split("_")) for _, e in scene.calls)
    names = {"Ok": "OK", "Cancelled": "Canceled"}
    for code, count in codes.items():
        assert read(after, "grpc_server_handled_total", grpc_code=names.get(code, code), **method) == count
    chunks = sum(-(-len(data) // 2**18) for _, ended in scene.calls for data in ended.files.values())
    sent = sum(len(ended.events) for _, ended in scene.calls) + chunks
    assert read(after, "grpc_server_msg_sent_total", **method) == sent
    assert read(after, "grpc_server_handling_seconds_count", **method) == len(scene.calls)
    assert 0 < read(after, "grpc_server_handling_seconds_sum", **method) < scene.seconds * len(scene.calls)
    cancels = {"grpc_method": "CancelGeneration", "grpc_code": "OK"}
    assert read(after, "grpc_server_handled_total", **cancels) == scene.cancels == 1
    started, handled = (scene.during.total(f"grpc_server_{name}_total", **method) for name in ("started", "handled"))
    assert started - handled == 3  # one runs, two wait


def _requests(scene: Scene, read: Reader) -> None:
    """Outcomes, and conservation: accepted = ended + in flight."""
    after = scene.after
    counts = Counter(outcome(ended) for _, ended in scene.calls)
    for name, count in counts.items():
        assert read(after, "imagegen_request_duration_seconds_count", outcome=name) == count, name
    delivered = scene.of("ok", "degraded")
    told = sum(ended.of("completed")[0].total_duration.ToNanoseconds() / 1e9 for ended in delivered)
    measured = sum(after.total("imagegen_request_duration_seconds_sum", outcome=name) for name in ("ok", "degraded"))
    assert told - 1e-6 < measured < told + scene.seconds  # each is told of a little before it ends
    accepted = sum(ended.accepted for _, ended in scene.calls)
    ends = sum(counts[name] for name in ("ok", "degraded", "cancelled", "deadline", "error"))
    assert ends + read(after, "imagegen_requests_in_flight", **_MODEL) == accepted
    assert read(scene.during, "imagegen_requests_in_flight", **_MODEL) == 3
    assert read(scene.during, "imagegen_requests_queued", **_MODEL) == 2
    assert read(after, "imagegen_requests_queued", **_MODEL) == 0
    assert read(scene.reading, "imagegen_requests_in_flight", **_MODEL) == 1
    assert read(scene.reading, "imagegen_requests_delivering", **_MODEL) == 1
    for samples in (scene.before, scene.during, after):
        assert read(samples, "imagegen_requests_delivering", **_MODEL) == 0
    assert read(scene.before, "imagegen_queue_capacity", **_MODEL) == 2  # before the first request
    assert read(after, "imagegen_queue_capacity", **_MODEL) == 2
    waits = [ended for _, ended in scene.calls if ended.accepted]
    batch = sum(message.priority == pb.PRIORITY_BATCH for message, _ in scene.calls)
    assert read(after, "imagegen_queue_wait_seconds_count", priority="batch") == batch == 1
    assert read(after, "imagegen_queue_wait_seconds_count", priority="interactive") == len(waits) - batch
    assert read(after, "imagegen_queue_wait_seconds_sum", priority="interactive") > 1  # two waited behind stalls
    stepped = sum(ended.accepted and outcome(ended) != "error" for _, ended in scene.calls)
    stepped += sum("@" in message.prompt for message, ended in scene.calls if outcome(ended) == "error")
    assert read(after, "imagegen_time_to_first_progress_seconds_count", **_MODEL) == stepped
    assert 0 < read(after, "imagegen_time_to_first_progress_seconds_sum", **_MODEL) < scene.seconds * stepped


def _stages(scene: Scene, read: Reader) -> None:
    """Stages, steps, rows and the device's time; steps counted = steps planned, for what was finished."""
    after, delivered = scene.after, scene.of("ok", "degraded")
    images = sum(len(ended.files) for ended in delivered)
    for stage in ("vae_decode", "image_encode", "send"):
        assert read(after, "imagegen_stage_duration_seconds_count", stage=stage, outcome="ok") == images, stage
    assert read(after, "imagegen_stage_duration_seconds_count", stage="refiner", outcome="error") == 3
    assert read(after, "imagegen_stage_duration_seconds_count", stage="base", outcome="cancelled") == 1
    assert read(after, "imagegen_stage_duration_seconds_count", stage="base", outcome="deadline") == 1
    texts = [read(after, "imagegen_texts_encoded_total", source=source) for source in ("encoded", "reused")]
    assert sum(texts) == read(after, "imagegen_stage_duration_seconds_count", stage="text_encode", outcome="ok")
    assert texts[0] > 0
    for stage, number in (("base", pb.STAGE_BASE), ("refiner", pb.STAGE_REFINER)):
        told = sum(t.steps for e in delivered for t in e.of("completed")[0].stage_timings if t.stage == number)
        counted = read(after, "imagegen_stage_steps_total", stage=stage)
        lost = sum(_reported(ended, number) for _, ended in scene.calls if not ended.ok and ended.accepted)
        assert told + lost <= counted <= told + 20 * len(scene.calls), stage
        turns = read(after, "imagegen_step_duration_seconds_count", stage=stage)
        rows = read(after, "imagegen_batch_rows_sum", stage=stage)
        assert read(after, "imagegen_batch_rows_count", stage=stage) == turns
        assert turns <= counted + len(scene.calls)
        assert counted <= rows <= 2 * (counted + len(scene.calls))
        seconds = read(after, "imagegen_device_seconds_total", stage=stage)
        assert 0.002 * turns <= read(after, "imagegen_step_duration_seconds_sum", stage=stage) <= seconds
    used = sum(ended.of("completed")[0].device_seconds for ended in delivered)
    assert read(after, "imagegen_generation_device_seconds_sum", **_MODEL) == pytest.approx(used)
    assert read(after, "imagegen_generation_device_seconds_count", **_MODEL) == len(delivered)
    given_up = sum(ended.of("completed")[0].wasted_device_seconds for ended in delivered)
    assert 0 < given_up < used
    everything = read(after, "imagegen_device_seconds_total", **_MODEL)
    wasted = read(after, "imagegen_wasted_device_seconds_total")
    assert wasted == pytest.approx(everything - used + given_up)
    for reason in ("cancelled", "deadline", "error"):
        assert read(after, "imagegen_wasted_device_seconds_total", reason=reason) > 0
    joules = [ended.of("completed")[0].energy_joules for ended in delivered]
    assert read(after, "imagegen_generation_energy_joules_sum", **_MODEL) == pytest.approx(sum(joules))
    assert read(after, "imagegen_generation_energy_joules_count", **_MODEL) == len(delivered)
    assert sum(joules) == pytest.approx(300 * used, rel=0.5)  # 300 W
    for ended in delivered:
        completed = ended.of("completed")[0]
        assert completed.images_per_joule == pytest.approx(len(ended.files) / completed.energy_joules)
        assert completed.peak_memory_bytes == 7_000_000_000
    peaks = read(after, "imagegen_generation_peak_memory_bytes_sum", **_MODEL)
    assert peaks == 7_000_000_000 * len(delivered)


def _reported(ended: Ended, stage: int) -> int:
    """Returns the most steps of a stage that the caller heard of."""
    return max((p.completed_steps for p in ended.of("step_progress") if p.stage == stage), default=0)


def _delivery(scene: Scene, read: Reader) -> None:
    """Image files by format, and a reader that was waited for."""
    files: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for message, ended in scene.calls:
        kind = message.output.mime_type.removeprefix("image/") or "png"
        files[kind] += len(ended.files)
        size[kind] += sum(len(data) for data in ended.files.values())
    assert set(files) == {"png", "jpeg", "webp"}
    for kind in files:
        assert read(scene.after, "imagegen_images_total", format=kind) == files[kind]
        assert read(scene.after, "imagegen_image_bytes_sum", format=kind) == size[kind]
    assert read(scene.after, "imagegen_stream_write_stall_seconds_count") >= 1
    assert 0.1 < read(scene.after, "imagegen_stream_write_stall_seconds_sum") < scene.seconds


def _store(scene: Scene, read: Reader) -> None:
    """Every image that was delivered is kept, and what became of them afterwards."""
    images = sum(len(ended.files) for ended in scene.of("ok", "degraded"))
    assert read(scene.after, "imagegen_store_writes_total", outcome="ok") == images
    assert read(scene.after, "imagegen_store_writes_total") == images
    assert read(scene.after, "imagegen_store_write_seconds_count") == images
    assert 0 < read(scene.after, "imagegen_store_write_seconds_sum") < scene.seconds * images
    reads = {"ok": 1, "not_found": 1, "damaged": 1, "failed": 1, "not_modified": 0}
    for how, count in reads.items():
        assert read(scene.after, "imagegen_store_reads_total", outcome=how) == count, how
    assert read(scene.after, "imagegen_store_removed_total", reason="age") == 1
    assert read(scene.after, "imagegen_store_removed_total", reason="bytes") == 0
    weighed = tuple(read(scene.after, f"imagegen_store_{what}") for what in ("bytes", "images"))
    assert weighed == scene.stored
    assert read(scene.after, "imagegen_store_limit_bytes") == 10**10
    assert read(scene.after, "imagegen_store_sweep_failures_total") >= 1
    assert read(scene.before, "imagegen_store_sweep_failures_total") == 0
    assert [read(samples, "imagegen_store_sweep_failing") for samples in (scene.before, scene.after)] == [0, 1]


def _trouble(scene: Scene, read: Reader) -> None:
    """Refusals, cancels, fallbacks, and batches that had to become smaller."""
    assert read(scene.after, "imagegen_rejected_total", reason="queue_full") == 1
    assert read(scene.after, "imagegen_rejected_total", reason="invalid") == 1
    assert read(scene.after, "imagegen_rejected_total") == 2
    for reason in scene.strangers:
        assert read(scene.after, "imagegen_auth_failures_total", reason=reason) == 1
    assert read(scene.after, "imagegen_auth_failures_total") == len(scene.strangers) == 4
    assert read(scene.after, "imagegen_cancelled_total", stage="base") == 1
    assert read(scene.after, "imagegen_cancel_latency_seconds_count", stage="base") == 1
    assert 0 <= read(scene.after, "imagegen_cancel_latency_seconds_sum", stage="base") < scene.seconds
    for reason in ("oom", "nan", "error"):
        labels = {"from": "refiner", "to": "base", "reason": reason}
        assert read(scene.after, "imagegen_fallbacks_total", **labels) == 1
    assert read(scene.after, "imagegen_fallbacks_total") == 3
    assert read(scene.before, "imagegen_degraded", feature="batch_rows") == 0
    assert read(scene.after, "imagegen_degraded", feature="batch_rows") == 1
    assert read(scene.before, "imagegen_adaptations_total", feature="batch_rows") == 0
    assert read(scene.after, "imagegen_adaptations_total", feature="batch_rows") >= 1
    assert read(scene.after, "imagegen_degraded", feature="refiner") == 0


def _process(scene: Scene, read: Reader) -> None:
    """What the server says of itself, before and after SIGTERM."""
    assert read(scene.after, "imagegen_serving") == 1
    assert read(scene.after, "imagegen_draining") == 0
    assert read(scene.draining, "imagegen_serving") == 0
    assert read(scene.draining, "imagegen_draining") == 1
    for stage in ("base", "refiner"):
        assert read(scene.after, "imagegen_model_loaded", stage=stage) == 1
        assert 0 < read(scene.after, "imagegen_model_load_seconds", stage=stage) < 60
    assert read(scene.after, "imagegen_model_info", dtype="fp32", residency="both", **_MODEL) == 1
    assert read(scene.after, "imagegen_build_info") == 1
    started = [read(samples, "process_start_time_seconds") for samples in (scene.before, scene.after)]
    assert started[0] == started[1] < time.time()
    assert 0 < read(scene.before, "process_cpu_seconds_total") < read(scene.after, "process_cpu_seconds_total")
    assert 0 < read(scene.after, "process_resident_memory_bytes") < read(scene.after, "process_virtual_memory_bytes")
    assert 0 < read(scene.after, "process_open_fds") <= read(scene.after, "process_max_fds")
    for name in ("imagegen_memory_budget_bytes", "imagegen_memory_planned_bytes"):
        assert read(scene.after, name, **_MODEL) == 0  # the fake model needs none


def _gpu(scene: Scene, read: Reader) -> None:
    """The GPU's script, as it comes out; what it does not give is absent and a counted error."""
    after, gpu = scene.after, {"gpu": "0"}
    assert read(after, "imagegen_gpu_info", name="simulated", driver="570.1", **gpu) == 1
    constant = {
        "imagegen_gpu_memory_used_bytes": 20 * 2**30,
        "imagegen_gpu_memory_total_bytes": 32 * 2**30,
        "imagegen_gpu_memory_process_bytes": 18 * 2**30,
        "imagegen_gpu_utilization_ratio": 0.75,
        "imagegen_gpu_memory_utilization_ratio": 0.5,
        "imagegen_gpu_temperature_celsius": 71,
        "imagegen_gpu_temperature_limit_celsius": 90,
        "imagegen_gpu_power_watts": 300,
        "imagegen_gpu_health": 0,  # XID 79: it has fallen off the bus
    }
    for name, value in constant.items():
        assert read(after, name, **gpu) == value, name
    assert not after.has("imagegen_gpu_power_limit_watts")
    assert read(after, "imagegen_gpu_collector_errors_total", call="power_limit", error="no_permission") >= 1
    assert read(after, "imagegen_gpu_clock_hertz", clock="sm") == 2.1e9
    assert read(after, "imagegen_gpu_clock_hertz", clock="memory") == 10.5e9
    joules = [read(samples, "imagegen_gpu_energy_joules_total", **gpu) for samples in (scene.before, after)]
    assert 0 < joules[1] - joules[0] <= 300 * (scene.seconds + 10)
    assert read(after, "imagegen_gpu_throttle_seconds_total", reason="thermal") > 1
    assert read(after, "imagegen_gpu_throttle_seconds_total", reason="power") == 0
    assert read(after, "imagegen_gpu_remap_pending", **gpu) == 1
    assert read(after, "imagegen_gpu_ecc_errors_total", type="corrected") == 3
    assert read(after, "imagegen_gpu_ecc_errors_total", type="uncorrected") == 1
    assert read(after, "imagegen_gpu_xid_errors_total", xid="79") == 2
    assert read(after, "imagegen_gpu_xid_errors_total", xid="other") == 1
    assert read(after, "imagegen_gpu_collector_up") == 1


def _allocator(scene: Scene, read: Reader) -> None:
    """torch's figures, as the script has them."""
    expected = {
        "allocated_bytes": 11,
        "reserved_bytes": 12,
        "allocated_peak_bytes": 13,
        "inactive_split_bytes": 14,
        "alloc_retries_total": 15,
        "ooms_total": 16,
    }
    for name, value in expected.items():
        assert read(scene.after, f"imagegen_torch_{name}") == value
