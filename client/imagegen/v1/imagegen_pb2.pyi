import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Stage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STAGE_UNSPECIFIED: _ClassVar[Stage]
    STAGE_QUEUED: _ClassVar[Stage]
    STAGE_TEXT_ENCODE: _ClassVar[Stage]
    STAGE_BASE: _ClassVar[Stage]
    STAGE_REFINER: _ClassVar[Stage]
    STAGE_VAE_DECODE: _ClassVar[Stage]
    STAGE_IMAGE_ENCODE: _ClassVar[Stage]
    STAGE_SEND: _ClassVar[Stage]

class RefinerMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REFINER_MODE_UNSPECIFIED: _ClassVar[RefinerMode]
    REFINER_MODE_IMAGE_TO_IMAGE: _ClassVar[RefinerMode]
    REFINER_MODE_ENSEMBLE: _ClassVar[RefinerMode]

class Priority(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRIORITY_UNSPECIFIED: _ClassVar[Priority]
    PRIORITY_INTERACTIVE: _ClassVar[Priority]
    PRIORITY_BATCH: _ClassVar[Priority]

class FallbackKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FALLBACK_KIND_UNSPECIFIED: _ClassVar[FallbackKind]
    FALLBACK_KIND_REFINER_TO_BASE: _ClassVar[FallbackKind]
    FALLBACK_KIND_TILED_DECODE: _ClassVar[FallbackKind]

class FallbackReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FALLBACK_REASON_UNSPECIFIED: _ClassVar[FallbackReason]
    FALLBACK_REASON_OOM: _ClassVar[FallbackReason]
    FALLBACK_REASON_ERROR: _ClassVar[FallbackReason]
    FALLBACK_REASON_NAN: _ClassVar[FallbackReason]
    FALLBACK_REASON_DEADLINE: _ClassVar[FallbackReason]
    FALLBACK_REASON_NOT_LOADED: _ClassVar[FallbackReason]

class WarningCode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WARNING_CODE_UNSPECIFIED: _ClassVar[WarningCode]
    WARNING_CODE_PROMPT_TRUNCATED: _ClassVar[WarningCode]
    WARNING_CODE_IMAGE_NOT_KEPT: _ClassVar[WarningCode]

class GenerationState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GENERATION_STATE_UNSPECIFIED: _ClassVar[GenerationState]
    GENERATION_STATE_QUEUED: _ClassVar[GenerationState]
    GENERATION_STATE_RUNNING: _ClassVar[GenerationState]
    GENERATION_STATE_COMPLETED: _ClassVar[GenerationState]
    GENERATION_STATE_CANCELLED: _ClassVar[GenerationState]
    GENERATION_STATE_FAILED: _ClassVar[GenerationState]

class OnDisconnect(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ON_DISCONNECT_UNSPECIFIED: _ClassVar[OnDisconnect]
    ON_DISCONNECT_STOP: _ClassVar[OnDisconnect]
    ON_DISCONNECT_CONTINUE: _ClassVar[OnDisconnect]

class ServerState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SERVER_STATE_UNSPECIFIED: _ClassVar[ServerState]
    SERVER_STATE_LOADING: _ClassVar[ServerState]
    SERVER_STATE_SERVING: _ClassVar[ServerState]
    SERVER_STATE_DRAINING: _ClassVar[ServerState]

class Residency(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RESIDENCY_UNSPECIFIED: _ClassVar[Residency]
    RESIDENCY_BOTH: _ClassVar[Residency]
    RESIDENCY_SWAP: _ClassVar[Residency]
STAGE_UNSPECIFIED: Stage
STAGE_QUEUED: Stage
STAGE_TEXT_ENCODE: Stage
STAGE_BASE: Stage
STAGE_REFINER: Stage
STAGE_VAE_DECODE: Stage
STAGE_IMAGE_ENCODE: Stage
STAGE_SEND: Stage
REFINER_MODE_UNSPECIFIED: RefinerMode
REFINER_MODE_IMAGE_TO_IMAGE: RefinerMode
REFINER_MODE_ENSEMBLE: RefinerMode
PRIORITY_UNSPECIFIED: Priority
PRIORITY_INTERACTIVE: Priority
PRIORITY_BATCH: Priority
FALLBACK_KIND_UNSPECIFIED: FallbackKind
FALLBACK_KIND_REFINER_TO_BASE: FallbackKind
FALLBACK_KIND_TILED_DECODE: FallbackKind
FALLBACK_REASON_UNSPECIFIED: FallbackReason
FALLBACK_REASON_OOM: FallbackReason
FALLBACK_REASON_ERROR: FallbackReason
FALLBACK_REASON_NAN: FallbackReason
FALLBACK_REASON_DEADLINE: FallbackReason
FALLBACK_REASON_NOT_LOADED: FallbackReason
WARNING_CODE_UNSPECIFIED: WarningCode
WARNING_CODE_PROMPT_TRUNCATED: WarningCode
WARNING_CODE_IMAGE_NOT_KEPT: WarningCode
GENERATION_STATE_UNSPECIFIED: GenerationState
GENERATION_STATE_QUEUED: GenerationState
GENERATION_STATE_RUNNING: GenerationState
GENERATION_STATE_COMPLETED: GenerationState
GENERATION_STATE_CANCELLED: GenerationState
GENERATION_STATE_FAILED: GenerationState
ON_DISCONNECT_UNSPECIFIED: OnDisconnect
ON_DISCONNECT_STOP: OnDisconnect
ON_DISCONNECT_CONTINUE: OnDisconnect
SERVER_STATE_UNSPECIFIED: ServerState
SERVER_STATE_LOADING: ServerState
SERVER_STATE_SERVING: ServerState
SERVER_STATE_DRAINING: ServerState
RESIDENCY_UNSPECIFIED: Residency
RESIDENCY_BOTH: Residency
RESIDENCY_SWAP: Residency

class Size(_message.Message):
    __slots__ = ("width", "height")
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    width: int
    height: int
    def __init__(self, width: _Optional[int] = ..., height: _Optional[int] = ...) -> None: ...

class Point(_message.Message):
    __slots__ = ("x", "y")
    X_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    x: int
    y: int
    def __init__(self, x: _Optional[int] = ..., y: _Optional[int] = ...) -> None: ...

class MicroConditioning(_message.Message):
    __slots__ = ("original_size", "crops_coords_top_left", "target_size", "negative_original_size", "negative_crops_coords_top_left", "negative_target_size")
    ORIGINAL_SIZE_FIELD_NUMBER: _ClassVar[int]
    CROPS_COORDS_TOP_LEFT_FIELD_NUMBER: _ClassVar[int]
    TARGET_SIZE_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_ORIGINAL_SIZE_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_CROPS_COORDS_TOP_LEFT_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_TARGET_SIZE_FIELD_NUMBER: _ClassVar[int]
    original_size: Size
    crops_coords_top_left: Point
    target_size: Size
    negative_original_size: Size
    negative_crops_coords_top_left: Point
    negative_target_size: Size
    def __init__(self, original_size: _Optional[_Union[Size, _Mapping]] = ..., crops_coords_top_left: _Optional[_Union[Point, _Mapping]] = ..., target_size: _Optional[_Union[Size, _Mapping]] = ..., negative_original_size: _Optional[_Union[Size, _Mapping]] = ..., negative_crops_coords_top_left: _Optional[_Union[Point, _Mapping]] = ..., negative_target_size: _Optional[_Union[Size, _Mapping]] = ...) -> None: ...

class RefinerOptions(_message.Message):
    __slots__ = ("mode", "num_inference_steps", "strength", "switch_at", "guidance_scale", "aesthetic_score", "negative_aesthetic_score", "prompt")
    MODE_FIELD_NUMBER: _ClassVar[int]
    NUM_INFERENCE_STEPS_FIELD_NUMBER: _ClassVar[int]
    STRENGTH_FIELD_NUMBER: _ClassVar[int]
    SWITCH_AT_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_SCALE_FIELD_NUMBER: _ClassVar[int]
    AESTHETIC_SCORE_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_AESTHETIC_SCORE_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    mode: RefinerMode
    num_inference_steps: int
    strength: float
    switch_at: float
    guidance_scale: float
    aesthetic_score: float
    negative_aesthetic_score: float
    prompt: str
    def __init__(self, mode: _Optional[_Union[RefinerMode, str]] = ..., num_inference_steps: _Optional[int] = ..., strength: _Optional[float] = ..., switch_at: _Optional[float] = ..., guidance_scale: _Optional[float] = ..., aesthetic_score: _Optional[float] = ..., negative_aesthetic_score: _Optional[float] = ..., prompt: _Optional[str] = ...) -> None: ...

class OutputOptions(_message.Message):
    __slots__ = ("mime_type", "quality", "embed_parameters")
    MIME_TYPE_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    EMBED_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    mime_type: str
    quality: int
    embed_parameters: bool
    def __init__(self, mime_type: _Optional[str] = ..., quality: _Optional[int] = ..., embed_parameters: bool = ...) -> None: ...

class ProgressOptions(_message.Message):
    __slots__ = ("min_interval", "preview_count")
    MIN_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_COUNT_FIELD_NUMBER: _ClassVar[int]
    min_interval: _duration_pb2.Duration
    preview_count: int
    def __init__(self, min_interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., preview_count: _Optional[int] = ...) -> None: ...

class FallbackPolicy(_message.Message):
    __slots__ = ("kinds",)
    KINDS_FIELD_NUMBER: _ClassVar[int]
    kinds: _containers.RepeatedScalarFieldContainer[FallbackKind]
    def __init__(self, kinds: _Optional[_Iterable[_Union[FallbackKind, str]]] = ...) -> None: ...

class GenerateImageRequest(_message.Message):
    __slots__ = ("request_id", "model", "prompt", "prompt_2", "negative_prompt", "negative_prompt_2", "num_inference_steps", "guidance_scale", "width", "height", "num_images", "seed", "scheduler", "use_refinement", "high_quality", "refiner", "output", "progress", "priority", "allowed_fallbacks", "isolate_batch", "validate_only", "micro_conditioning", "use_generation", "on_disconnect")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    PROMPT_2_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_PROMPT_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_PROMPT_2_FIELD_NUMBER: _ClassVar[int]
    NUM_INFERENCE_STEPS_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_SCALE_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    NUM_IMAGES_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    SCHEDULER_FIELD_NUMBER: _ClassVar[int]
    USE_REFINEMENT_FIELD_NUMBER: _ClassVar[int]
    HIGH_QUALITY_FIELD_NUMBER: _ClassVar[int]
    REFINER_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    ALLOWED_FALLBACKS_FIELD_NUMBER: _ClassVar[int]
    ISOLATE_BATCH_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    MICRO_CONDITIONING_FIELD_NUMBER: _ClassVar[int]
    USE_GENERATION_FIELD_NUMBER: _ClassVar[int]
    ON_DISCONNECT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    model: str
    prompt: str
    prompt_2: str
    negative_prompt: str
    negative_prompt_2: str
    num_inference_steps: int
    guidance_scale: float
    width: int
    height: int
    num_images: int
    seed: int
    scheduler: str
    use_refinement: bool
    high_quality: bool
    refiner: RefinerOptions
    output: OutputOptions
    progress: ProgressOptions
    priority: Priority
    allowed_fallbacks: FallbackPolicy
    isolate_batch: bool
    validate_only: bool
    micro_conditioning: MicroConditioning
    use_generation: bool
    on_disconnect: OnDisconnect
    def __init__(self, request_id: _Optional[str] = ..., model: _Optional[str] = ..., prompt: _Optional[str] = ..., prompt_2: _Optional[str] = ..., negative_prompt: _Optional[str] = ..., negative_prompt_2: _Optional[str] = ..., num_inference_steps: _Optional[int] = ..., guidance_scale: _Optional[float] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., num_images: _Optional[int] = ..., seed: _Optional[int] = ..., scheduler: _Optional[str] = ..., use_refinement: bool = ..., high_quality: bool = ..., refiner: _Optional[_Union[RefinerOptions, _Mapping]] = ..., output: _Optional[_Union[OutputOptions, _Mapping]] = ..., progress: _Optional[_Union[ProgressOptions, _Mapping]] = ..., priority: _Optional[_Union[Priority, str]] = ..., allowed_fallbacks: _Optional[_Union[FallbackPolicy, _Mapping]] = ..., isolate_batch: bool = ..., validate_only: bool = ..., micro_conditioning: _Optional[_Union[MicroConditioning, _Mapping]] = ..., use_generation: bool = ..., on_disconnect: _Optional[_Union[OnDisconnect, str]] = ...) -> None: ...

class GenerateImageResponse(_message.Message):
    __slots__ = ("request_id", "sequence", "event_time", "accepted", "queue_update", "stage_started", "step_progress", "stage_completed", "preview", "image_header", "image_chunk", "fallback", "warning", "completed")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    QUEUE_UPDATE_FIELD_NUMBER: _ClassVar[int]
    STAGE_STARTED_FIELD_NUMBER: _ClassVar[int]
    STEP_PROGRESS_FIELD_NUMBER: _ClassVar[int]
    STAGE_COMPLETED_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_FIELD_NUMBER: _ClassVar[int]
    IMAGE_HEADER_FIELD_NUMBER: _ClassVar[int]
    IMAGE_CHUNK_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_FIELD_NUMBER: _ClassVar[int]
    WARNING_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    sequence: int
    event_time: _timestamp_pb2.Timestamp
    accepted: Accepted
    queue_update: QueueUpdate
    stage_started: StageStarted
    step_progress: StepProgress
    stage_completed: StageCompleted
    preview: Preview
    image_header: ImageHeader
    image_chunk: ImageChunk
    fallback: FallbackTaken
    warning: Warning
    completed: Completed
    def __init__(self, request_id: _Optional[str] = ..., sequence: _Optional[int] = ..., event_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., accepted: _Optional[_Union[Accepted, _Mapping]] = ..., queue_update: _Optional[_Union[QueueUpdate, _Mapping]] = ..., stage_started: _Optional[_Union[StageStarted, _Mapping]] = ..., step_progress: _Optional[_Union[StepProgress, _Mapping]] = ..., stage_completed: _Optional[_Union[StageCompleted, _Mapping]] = ..., preview: _Optional[_Union[Preview, _Mapping]] = ..., image_header: _Optional[_Union[ImageHeader, _Mapping]] = ..., image_chunk: _Optional[_Union[ImageChunk, _Mapping]] = ..., fallback: _Optional[_Union[FallbackTaken, _Mapping]] = ..., warning: _Optional[_Union[Warning, _Mapping]] = ..., completed: _Optional[_Union[Completed, _Mapping]] = ...) -> None: ...

class StagePlan(_message.Message):
    __slots__ = ("stage", "steps", "evaluations", "guidance_scale")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_SCALE_FIELD_NUMBER: _ClassVar[int]
    stage: Stage
    steps: int
    evaluations: int
    guidance_scale: float
    def __init__(self, stage: _Optional[_Union[Stage, str]] = ..., steps: _Optional[int] = ..., evaluations: _Optional[int] = ..., guidance_scale: _Optional[float] = ...) -> None: ...

class GenerationPlan(_message.Message):
    __slots__ = ("model", "seed", "size", "num_images", "scheduler", "stages", "refiner_mode", "precision", "allowed_fallbacks", "mime_type")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    NUM_IMAGES_FIELD_NUMBER: _ClassVar[int]
    SCHEDULER_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    REFINER_MODE_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    ALLOWED_FALLBACKS_FIELD_NUMBER: _ClassVar[int]
    MIME_TYPE_FIELD_NUMBER: _ClassVar[int]
    model: str
    seed: int
    size: Size
    num_images: int
    scheduler: str
    stages: _containers.RepeatedCompositeFieldContainer[StagePlan]
    refiner_mode: RefinerMode
    precision: str
    allowed_fallbacks: _containers.RepeatedScalarFieldContainer[FallbackKind]
    mime_type: str
    def __init__(self, model: _Optional[str] = ..., seed: _Optional[int] = ..., size: _Optional[_Union[Size, _Mapping]] = ..., num_images: _Optional[int] = ..., scheduler: _Optional[str] = ..., stages: _Optional[_Iterable[_Union[StagePlan, _Mapping]]] = ..., refiner_mode: _Optional[_Union[RefinerMode, str]] = ..., precision: _Optional[str] = ..., allowed_fallbacks: _Optional[_Iterable[_Union[FallbackKind, str]]] = ..., mime_type: _Optional[str] = ...) -> None: ...

class Accepted(_message.Message):
    __slots__ = ("plan", "queue_position", "estimated_queue_wait", "estimated_duration")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    QUEUE_POSITION_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_QUEUE_WAIT_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_DURATION_FIELD_NUMBER: _ClassVar[int]
    plan: GenerationPlan
    queue_position: int
    estimated_queue_wait: _duration_pb2.Duration
    estimated_duration: _duration_pb2.Duration
    def __init__(self, plan: _Optional[_Union[GenerationPlan, _Mapping]] = ..., queue_position: _Optional[int] = ..., estimated_queue_wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., estimated_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class QueueUpdate(_message.Message):
    __slots__ = ("position", "estimated_wait")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_WAIT_FIELD_NUMBER: _ClassVar[int]
    position: int
    estimated_wait: _duration_pb2.Duration
    def __init__(self, position: _Optional[int] = ..., estimated_wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class StageStarted(_message.Message):
    __slots__ = ("stage", "image_index", "total_steps")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_INDEX_FIELD_NUMBER: _ClassVar[int]
    TOTAL_STEPS_FIELD_NUMBER: _ClassVar[int]
    stage: Stage
    image_index: int
    total_steps: int
    def __init__(self, stage: _Optional[_Union[Stage, str]] = ..., image_index: _Optional[int] = ..., total_steps: _Optional[int] = ...) -> None: ...

class StepProgress(_message.Message):
    __slots__ = ("stage", "image_index", "completed_steps", "total_steps", "overall_fraction", "eta")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_INDEX_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_STEPS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_STEPS_FIELD_NUMBER: _ClassVar[int]
    OVERALL_FRACTION_FIELD_NUMBER: _ClassVar[int]
    ETA_FIELD_NUMBER: _ClassVar[int]
    stage: Stage
    image_index: int
    completed_steps: int
    total_steps: int
    overall_fraction: float
    eta: _duration_pb2.Duration
    def __init__(self, stage: _Optional[_Union[Stage, str]] = ..., image_index: _Optional[int] = ..., completed_steps: _Optional[int] = ..., total_steps: _Optional[int] = ..., overall_fraction: _Optional[float] = ..., eta: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class StageCompleted(_message.Message):
    __slots__ = ("stage", "image_index", "duration", "steps")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_INDEX_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    stage: Stage
    image_index: int
    duration: _duration_pb2.Duration
    steps: int
    def __init__(self, stage: _Optional[_Union[Stage, str]] = ..., image_index: _Optional[int] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., steps: _Optional[int] = ...) -> None: ...

class Preview(_message.Message):
    __slots__ = ("stage", "image_index", "completed_steps", "mime_type", "data", "size")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_INDEX_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_STEPS_FIELD_NUMBER: _ClassVar[int]
    MIME_TYPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    stage: Stage
    image_index: int
    completed_steps: int
    mime_type: str
    data: bytes
    size: Size
    def __init__(self, stage: _Optional[_Union[Stage, str]] = ..., image_index: _Optional[int] = ..., completed_steps: _Optional[int] = ..., mime_type: _Optional[str] = ..., data: _Optional[bytes] = ..., size: _Optional[_Union[Size, _Mapping]] = ...) -> None: ...

class ImageHeader(_message.Message):
    __slots__ = ("image_index", "mime_type", "size_bytes", "sha256", "seed", "size", "refined")
    IMAGE_INDEX_FIELD_NUMBER: _ClassVar[int]
    MIME_TYPE_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    REFINED_FIELD_NUMBER: _ClassVar[int]
    image_index: int
    mime_type: str
    size_bytes: int
    sha256: str
    seed: int
    size: Size
    refined: bool
    def __init__(self, image_index: _Optional[int] = ..., mime_type: _Optional[str] = ..., size_bytes: _Optional[int] = ..., sha256: _Optional[str] = ..., seed: _Optional[int] = ..., size: _Optional[_Union[Size, _Mapping]] = ..., refined: bool = ...) -> None: ...

class ImageChunk(_message.Message):
    __slots__ = ("image_index", "offset", "data")
    IMAGE_INDEX_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    image_index: int
    offset: int
    data: bytes
    def __init__(self, image_index: _Optional[int] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class FallbackTaken(_message.Message):
    __slots__ = ("image_index", "from_stage", "to_stage", "reason", "kind", "message")
    IMAGE_INDEX_FIELD_NUMBER: _ClassVar[int]
    FROM_STAGE_FIELD_NUMBER: _ClassVar[int]
    TO_STAGE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    image_index: int
    from_stage: Stage
    to_stage: Stage
    reason: FallbackReason
    kind: FallbackKind
    message: str
    def __init__(self, image_index: _Optional[int] = ..., from_stage: _Optional[_Union[Stage, str]] = ..., to_stage: _Optional[_Union[Stage, str]] = ..., reason: _Optional[_Union[FallbackReason, str]] = ..., kind: _Optional[_Union[FallbackKind, str]] = ..., message: _Optional[str] = ...) -> None: ...

class PromptTruncation(_message.Message):
    __slots__ = ("encoder", "stage", "field", "removed_text", "removed_tokens", "max_tokens")
    ENCODER_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    REMOVED_TEXT_FIELD_NUMBER: _ClassVar[int]
    REMOVED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    encoder: str
    stage: Stage
    field: str
    removed_text: str
    removed_tokens: int
    max_tokens: int
    def __init__(self, encoder: _Optional[str] = ..., stage: _Optional[_Union[Stage, str]] = ..., field: _Optional[str] = ..., removed_text: _Optional[str] = ..., removed_tokens: _Optional[int] = ..., max_tokens: _Optional[int] = ...) -> None: ...

class Warning(_message.Message):
    __slots__ = ("code", "message", "truncation", "image_index")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TRUNCATION_FIELD_NUMBER: _ClassVar[int]
    IMAGE_INDEX_FIELD_NUMBER: _ClassVar[int]
    code: WarningCode
    message: str
    truncation: PromptTruncation
    image_index: int
    def __init__(self, code: _Optional[_Union[WarningCode, str]] = ..., message: _Optional[str] = ..., truncation: _Optional[_Union[PromptTruncation, _Mapping]] = ..., image_index: _Optional[int] = ...) -> None: ...

class StageTiming(_message.Message):
    __slots__ = ("stage", "duration", "steps")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    stage: Stage
    duration: _duration_pb2.Duration
    steps: int
    def __init__(self, stage: _Optional[_Union[Stage, str]] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., steps: _Optional[int] = ...) -> None: ...

class ImageSummary(_message.Message):
    __slots__ = ("image_index", "seed", "sha256", "size_bytes", "refined", "url")
    IMAGE_INDEX_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    REFINED_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    image_index: int
    seed: int
    sha256: str
    size_bytes: int
    refined: bool
    url: str
    def __init__(self, image_index: _Optional[int] = ..., seed: _Optional[int] = ..., sha256: _Optional[str] = ..., size_bytes: _Optional[int] = ..., refined: bool = ..., url: _Optional[str] = ...) -> None: ...

class Completed(_message.Message):
    __slots__ = ("stage_timings", "total_duration", "peak_memory_bytes", "fallbacks", "images", "device_seconds", "wasted_device_seconds", "energy_joules", "images_per_joule")
    STAGE_TIMINGS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_DURATION_FIELD_NUMBER: _ClassVar[int]
    PEAK_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    FALLBACKS_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    DEVICE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    WASTED_DEVICE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ENERGY_JOULES_FIELD_NUMBER: _ClassVar[int]
    IMAGES_PER_JOULE_FIELD_NUMBER: _ClassVar[int]
    stage_timings: _containers.RepeatedCompositeFieldContainer[StageTiming]
    total_duration: _duration_pb2.Duration
    peak_memory_bytes: int
    fallbacks: _containers.RepeatedCompositeFieldContainer[FallbackTaken]
    images: _containers.RepeatedCompositeFieldContainer[ImageSummary]
    device_seconds: float
    wasted_device_seconds: float
    energy_joules: float
    images_per_joule: float
    def __init__(self, stage_timings: _Optional[_Iterable[_Union[StageTiming, _Mapping]]] = ..., total_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., peak_memory_bytes: _Optional[int] = ..., fallbacks: _Optional[_Iterable[_Union[FallbackTaken, _Mapping]]] = ..., images: _Optional[_Iterable[_Union[ImageSummary, _Mapping]]] = ..., device_seconds: _Optional[float] = ..., wasted_device_seconds: _Optional[float] = ..., energy_joules: _Optional[float] = ..., images_per_joule: _Optional[float] = ...) -> None: ...

class RenderImageRequest(_message.Message):
    __slots__ = ("generation", "include_image_data")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_IMAGE_DATA_FIELD_NUMBER: _ClassVar[int]
    generation: GenerateImageRequest
    include_image_data: bool
    def __init__(self, generation: _Optional[_Union[GenerateImageRequest, _Mapping]] = ..., include_image_data: bool = ...) -> None: ...

class RenderedImage(_message.Message):
    __slots__ = ("summary", "url", "mime_type", "data")
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    MIME_TYPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    summary: ImageSummary
    url: str
    mime_type: str
    data: bytes
    def __init__(self, summary: _Optional[_Union[ImageSummary, _Mapping]] = ..., url: _Optional[str] = ..., mime_type: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class RenderImageResponse(_message.Message):
    __slots__ = ("request_id", "plan", "images", "completed", "generation_seconds", "seed", "url", "mime_type", "model", "size", "refined", "warnings", "fallbacks")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_FIELD_NUMBER: _ClassVar[int]
    GENERATION_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    MIME_TYPE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    REFINED_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    FALLBACKS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    plan: GenerationPlan
    images: _containers.RepeatedCompositeFieldContainer[RenderedImage]
    completed: Completed
    generation_seconds: float
    seed: int
    url: str
    mime_type: str
    model: str
    size: Size
    refined: bool
    warnings: _containers.RepeatedCompositeFieldContainer[Warning]
    fallbacks: _containers.RepeatedCompositeFieldContainer[FallbackTaken]
    def __init__(self, request_id: _Optional[str] = ..., plan: _Optional[_Union[GenerationPlan, _Mapping]] = ..., images: _Optional[_Iterable[_Union[RenderedImage, _Mapping]]] = ..., completed: _Optional[_Union[Completed, _Mapping]] = ..., generation_seconds: _Optional[float] = ..., seed: _Optional[int] = ..., url: _Optional[str] = ..., mime_type: _Optional[str] = ..., model: _Optional[str] = ..., size: _Optional[_Union[Size, _Mapping]] = ..., refined: bool = ..., warnings: _Optional[_Iterable[_Union[Warning, _Mapping]]] = ..., fallbacks: _Optional[_Iterable[_Union[FallbackTaken, _Mapping]]] = ...) -> None: ...

class WatchGenerationRequest(_message.Message):
    __slots__ = ("request_id", "after_sequence")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    after_sequence: int
    def __init__(self, request_id: _Optional[str] = ..., after_sequence: _Optional[int] = ...) -> None: ...

class WatchGenerationResponse(_message.Message):
    __slots__ = ("response",)
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    response: GenerateImageResponse
    def __init__(self, response: _Optional[_Union[GenerateImageResponse, _Mapping]] = ...) -> None: ...

class CancelGenerationRequest(_message.Message):
    __slots__ = ("request_id",)
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    def __init__(self, request_id: _Optional[str] = ...) -> None: ...

class CancelGenerationResponse(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: GenerationState
    def __init__(self, state: _Optional[_Union[GenerationState, str]] = ...) -> None: ...

class GetGenerationRequest(_message.Message):
    __slots__ = ("request_id",)
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    def __init__(self, request_id: _Optional[str] = ...) -> None: ...

class GenerationFailure(_message.Message):
    __slots__ = ("code", "reason", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: int
    reason: str
    message: str
    def __init__(self, code: _Optional[int] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class GetGenerationResponse(_message.Message):
    __slots__ = ("request_id", "state", "plan", "completed", "images", "stage", "overall_fraction", "failure", "create_time", "end_time", "on_disconnect")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    OVERALL_FRACTION_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    ON_DISCONNECT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    state: GenerationState
    plan: GenerationPlan
    completed: Completed
    images: _containers.RepeatedCompositeFieldContainer[RenderedImage]
    stage: Stage
    overall_fraction: float
    failure: GenerationFailure
    create_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    on_disconnect: OnDisconnect
    def __init__(self, request_id: _Optional[str] = ..., state: _Optional[_Union[GenerationState, str]] = ..., plan: _Optional[_Union[GenerationPlan, _Mapping]] = ..., completed: _Optional[_Union[Completed, _Mapping]] = ..., images: _Optional[_Iterable[_Union[RenderedImage, _Mapping]]] = ..., stage: _Optional[_Union[Stage, str]] = ..., overall_fraction: _Optional[float] = ..., failure: _Optional[_Union[GenerationFailure, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., on_disconnect: _Optional[_Union[OnDisconnect, str]] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Limits(_message.Message):
    __slots__ = ("min_steps", "max_steps", "min_guidance_scale", "max_guidance_scale", "min_side", "max_side", "side_multiple", "max_images", "max_prompt_characters", "max_pixels", "max_refiner_steps")
    MIN_STEPS_FIELD_NUMBER: _ClassVar[int]
    MAX_STEPS_FIELD_NUMBER: _ClassVar[int]
    MIN_GUIDANCE_SCALE_FIELD_NUMBER: _ClassVar[int]
    MAX_GUIDANCE_SCALE_FIELD_NUMBER: _ClassVar[int]
    MIN_SIDE_FIELD_NUMBER: _ClassVar[int]
    MAX_SIDE_FIELD_NUMBER: _ClassVar[int]
    SIDE_MULTIPLE_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGES_FIELD_NUMBER: _ClassVar[int]
    MAX_PROMPT_CHARACTERS_FIELD_NUMBER: _ClassVar[int]
    MAX_PIXELS_FIELD_NUMBER: _ClassVar[int]
    MAX_REFINER_STEPS_FIELD_NUMBER: _ClassVar[int]
    min_steps: int
    max_steps: int
    min_guidance_scale: float
    max_guidance_scale: float
    min_side: int
    max_side: int
    side_multiple: int
    max_images: int
    max_prompt_characters: int
    max_pixels: int
    max_refiner_steps: int
    def __init__(self, min_steps: _Optional[int] = ..., max_steps: _Optional[int] = ..., min_guidance_scale: _Optional[float] = ..., max_guidance_scale: _Optional[float] = ..., min_side: _Optional[int] = ..., max_side: _Optional[int] = ..., side_multiple: _Optional[int] = ..., max_images: _Optional[int] = ..., max_prompt_characters: _Optional[int] = ..., max_pixels: _Optional[int] = ..., max_refiner_steps: _Optional[int] = ...) -> None: ...

class Defaults(_message.Message):
    __slots__ = ("num_inference_steps", "guidance_scale", "fast_num_inference_steps", "fast_guidance_scale", "size", "scheduler", "refiner_mode", "refiner_num_inference_steps", "refiner_strength", "refiner_switch_at", "aesthetic_score", "negative_aesthetic_score", "refiner_guidance_scale")
    NUM_INFERENCE_STEPS_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_SCALE_FIELD_NUMBER: _ClassVar[int]
    FAST_NUM_INFERENCE_STEPS_FIELD_NUMBER: _ClassVar[int]
    FAST_GUIDANCE_SCALE_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SCHEDULER_FIELD_NUMBER: _ClassVar[int]
    REFINER_MODE_FIELD_NUMBER: _ClassVar[int]
    REFINER_NUM_INFERENCE_STEPS_FIELD_NUMBER: _ClassVar[int]
    REFINER_STRENGTH_FIELD_NUMBER: _ClassVar[int]
    REFINER_SWITCH_AT_FIELD_NUMBER: _ClassVar[int]
    AESTHETIC_SCORE_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_AESTHETIC_SCORE_FIELD_NUMBER: _ClassVar[int]
    REFINER_GUIDANCE_SCALE_FIELD_NUMBER: _ClassVar[int]
    num_inference_steps: int
    guidance_scale: float
    fast_num_inference_steps: int
    fast_guidance_scale: float
    size: Size
    scheduler: str
    refiner_mode: RefinerMode
    refiner_num_inference_steps: int
    refiner_strength: float
    refiner_switch_at: float
    aesthetic_score: float
    negative_aesthetic_score: float
    refiner_guidance_scale: float
    def __init__(self, num_inference_steps: _Optional[int] = ..., guidance_scale: _Optional[float] = ..., fast_num_inference_steps: _Optional[int] = ..., fast_guidance_scale: _Optional[float] = ..., size: _Optional[_Union[Size, _Mapping]] = ..., scheduler: _Optional[str] = ..., refiner_mode: _Optional[_Union[RefinerMode, str]] = ..., refiner_num_inference_steps: _Optional[int] = ..., refiner_strength: _Optional[float] = ..., refiner_switch_at: _Optional[float] = ..., aesthetic_score: _Optional[float] = ..., negative_aesthetic_score: _Optional[float] = ..., refiner_guidance_scale: _Optional[float] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "description", "loaded", "refiner_loaded", "limits", "defaults", "schedulers", "base_source", "refiner_source")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    LOADED_FIELD_NUMBER: _ClassVar[int]
    REFINER_LOADED_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    DEFAULTS_FIELD_NUMBER: _ClassVar[int]
    SCHEDULERS_FIELD_NUMBER: _ClassVar[int]
    BASE_SOURCE_FIELD_NUMBER: _ClassVar[int]
    REFINER_SOURCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    description: str
    loaded: bool
    refiner_loaded: bool
    limits: Limits
    defaults: Defaults
    schedulers: _containers.RepeatedScalarFieldContainer[str]
    base_source: str
    refiner_source: str
    def __init__(self, name: _Optional[str] = ..., description: _Optional[str] = ..., loaded: bool = ..., refiner_loaded: bool = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., defaults: _Optional[_Union[Defaults, _Mapping]] = ..., schedulers: _Optional[_Iterable[str]] = ..., base_source: _Optional[str] = ..., refiner_source: _Optional[str] = ...) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class GetServerInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Device(_message.Message):
    __slots__ = ("type", "name", "driver", "total_memory_bytes")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DRIVER_FIELD_NUMBER: _ClassVar[int]
    TOTAL_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    type: str
    name: str
    driver: str
    total_memory_bytes: int
    def __init__(self, type: _Optional[str] = ..., name: _Optional[str] = ..., driver: _Optional[str] = ..., total_memory_bytes: _Optional[int] = ...) -> None: ...

class ComponentSize(_message.Message):
    __slots__ = ("name", "parameters", "bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    parameters: int
    bytes: int
    def __init__(self, name: _Optional[str] = ..., parameters: _Optional[int] = ..., bytes: _Optional[int] = ...) -> None: ...

class MemoryPlan(_message.Message):
    __slots__ = ("residency", "precision", "available_bytes", "weights_bytes", "working_bytes", "components", "explanation", "predicted_peak_bytes")
    RESIDENCY_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_BYTES_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_BYTES_FIELD_NUMBER: _ClassVar[int]
    WORKING_BYTES_FIELD_NUMBER: _ClassVar[int]
    COMPONENTS_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_PEAK_BYTES_FIELD_NUMBER: _ClassVar[int]
    residency: Residency
    precision: str
    available_bytes: int
    weights_bytes: int
    working_bytes: int
    components: _containers.RepeatedCompositeFieldContainer[ComponentSize]
    explanation: str
    predicted_peak_bytes: int
    def __init__(self, residency: _Optional[_Union[Residency, str]] = ..., precision: _Optional[str] = ..., available_bytes: _Optional[int] = ..., weights_bytes: _Optional[int] = ..., working_bytes: _Optional[int] = ..., components: _Optional[_Iterable[_Union[ComponentSize, _Mapping]]] = ..., explanation: _Optional[str] = ..., predicted_peak_bytes: _Optional[int] = ...) -> None: ...

class PackageVersion(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class GetServerInfoResponse(_message.Message):
    __slots__ = ("version", "state", "model", "device", "precision", "memory_plan", "packages", "queue_capacity", "queued", "running", "start_time")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    MEMORY_PLAN_FIELD_NUMBER: _ClassVar[int]
    PACKAGES_FIELD_NUMBER: _ClassVar[int]
    QUEUE_CAPACITY_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    version: str
    state: ServerState
    model: str
    device: Device
    precision: str
    memory_plan: MemoryPlan
    packages: _containers.RepeatedCompositeFieldContainer[PackageVersion]
    queue_capacity: int
    queued: int
    running: int
    start_time: _timestamp_pb2.Timestamp
    def __init__(self, version: _Optional[str] = ..., state: _Optional[_Union[ServerState, str]] = ..., model: _Optional[str] = ..., device: _Optional[_Union[Device, _Mapping]] = ..., precision: _Optional[str] = ..., memory_plan: _Optional[_Union[MemoryPlan, _Mapping]] = ..., packages: _Optional[_Iterable[_Union[PackageVersion, _Mapping]]] = ..., queue_capacity: _Optional[int] = ..., queued: _Optional[int] = ..., running: _Optional[int] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
