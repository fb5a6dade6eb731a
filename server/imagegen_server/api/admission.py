"""What a call is refused for before its generation begins, or before it is read to: its request, quotas, readers."""

from __future__ import annotations

from contextlib import AbstractContextManager

from imagegen.v1 import imagegen_pb2 as pb
from imagegen_server import errors
from imagegen_server.api import convert
from imagegen_server.api.auth.caller import current_caller, of_caller, refusal
from imagegen_server.api.backend import Backend
from imagegen_server.api.observers import EdgeObserver
from imagegen_server.api.quotas import Quotas
from imagegen_server.api.readers import Readers
from imagegen_server.core import GenerationRequest, LoadedModel, Refusal, RejectReason


class Admission:
    """Refuses calls, and tells the observer of each."""

    def __init__(
        self,
        backend: Backend,
        observer: EdgeObserver,
        quotas: Quotas | None,
        readers: Readers,
        *,
        allow_isolate_batch: bool,
    ) -> None:
        self._backend = backend
        self._observer = observer
        self._quotas = quotas
        self._readers = readers
        self._allow_isolate_batch = allow_isolate_batch

    def checked(self, request: pb.GenerateImageRequest, request_id: str) -> GenerationRequest:
        """Returns the complete request. Raises what is wrong with it, or `errors.Unavailable` while loading."""
        loaded = self._loaded(request, request_id)
        try:
            generation = convert.to_generation(
                request,
                request_id=request_id,
                loaded=loaded.profile,
                profiles=self._backend.profiles(),
                plan=self._backend.engine().plan,
                allow_isolate_batch=self._allow_isolate_batch,
            )
            return of_caller(generation, current_caller())
        except (errors.InvalidRequest, errors.NotFound) as error:
            model = request.model or loaded.profile.name
            self._refused(request, refusal(request_id, model, RejectReason.INVALID, error))
            raise

    def check_quota(self, generation: GenerationRequest) -> None:
        """Raises `errors.QuotaExceeded` if the caller's tenant may not begin another generation now."""
        try:
            self._check_readers(1)
            if self._quotas is not None:
                self._quotas.check(current_caller())
        except errors.QuotaExceeded as error:
            self._observer.rejected(refusal(generation.request_id, generation.model, RejectReason.QUOTA, error))
            raise

    def reading(self, request_id: str, weight: int = 1) -> AbstractContextManager[None]:
        """Returns what counts a call that reads a generation which it did not begin, as `weight` readers.

        Raises `errors.QuotaExceeded` if the caller's tenant may not read with another call now.
        """
        try:
            self._check_readers(weight)
        except errors.QuotaExceeded as error:
            self._observer.rejected(refusal(request_id, "", RejectReason.QUOTA, error))
            raise
        return self._readers.reading(current_caller().tenant, weight)

    def _check_readers(self, weight: int) -> None:
        caller = current_caller()
        in_flight = None if self._quotas is None else self._quotas.max_in_flight(caller)
        self._readers.check(caller.tenant, in_flight, weight)

    def _loaded(self, request: pb.GenerateImageRequest, request_id: str) -> LoadedModel:
        """Returns what generates. Raises `errors.Unavailable` while there is nothing, be it that the server ends."""
        try:
            self._backend.engine()
            loaded = self._backend.loaded()
            if loaded is None:
                raise errors.Unavailable(errors.UnavailableReason.LOADING, "models are being loaded")
        except errors.Unavailable as error:
            loading = error.reason is errors.UnavailableReason.LOADING
            reason = RejectReason.LOADING if loading else RejectReason.DRAINING
            self._refused(request, refusal(request_id, request.model, reason, error))
            raise
        return loaded

    def _refused(self, request: pb.GenerateImageRequest, told: Refusal) -> None:
        """Tells of a generation that is refused; a dry run is none, whatever refuses it."""
        if not request.validate_only:
            self._observer.rejected(told)
