package example;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.util.List;
import java.util.Optional;

/** A call that ended with a status other than OK, with what the server says about it. */
public final class Refusal extends Exception {
  private static final Metadata.Key<String> PUSHBACK =
      Metadata.Key.of("grpc-retry-pushback-ms", Metadata.ASCII_STRING_MARSHALLER);

  private final Status.Code code;
  private final ErrorInfo info;
  private final List<BadRequest.FieldViolation> violations;
  private final Duration retryAfter;

  /** Decodes the status and the trailers of a failed call. */
  public Refusal(StatusRuntimeException error) {
    super(error.getStatus().getDescription(), error);
    code = error.getStatus().getCode();
    com.google.rpc.Status details = StatusProto.fromThrowable(error);
    info = find(details, ErrorInfo.class).orElse(null);
    violations = find(details, BadRequest.class).map(BadRequest::getFieldViolationsList).orElse(List.of());
    Optional<Duration> retry =
        find(details, RetryInfo.class)
            .map(RetryInfo::getRetryDelay)
            .map(delay -> Duration.ofSeconds(delay.getSeconds(), delay.getNanos()));
    String pushback = error.getTrailers() == null ? null : error.getTrailers().get(PUSHBACK);
    retryAfter = pushback == null ? retry.orElse(null) : parsePushback(pushback);
  }

  public Status.Code code() {
    return code;
  }

  /** Stable, for programs: QUEUE_FULL, GPU_OUT_OF_MEMORY …; empty if the transport failed, not the service. */
  public String reason() {
    return info == null ? "" : info.getReason();
  }

  public List<BadRequest.FieldViolation> violations() {
    return violations;
  }

  /** Empty: the server does not ask for a new attempt. */
  public Optional<Duration> retryAfter() {
    return Optional.ofNullable(retryAfter);
  }

  /**
   * The connection broke, which is INTERNAL where a proxy noticed it, or nobody answered: the service gives every error of
   * its own an ErrorInfo.
   */
  public boolean lost() {
    return (code == Status.Code.UNAVAILABLE || code == Status.Code.INTERNAL) && info == null;
  }

  /** The trailer has the last word: a negative or unreadable number means "do not retry". */
  private static Duration parsePushback(String text) {
    try {
      long milliseconds = Long.parseLong(text);
      return milliseconds < 0 ? null : Duration.ofMillis(milliseconds);
    } catch (NumberFormatException unreadable) {
      return null;
    }
  }

  private static <T extends com.google.protobuf.Message> Optional<T> find(com.google.rpc.Status status, Class<T> kind) {
    if (status == null) {
      return Optional.empty();
    }
    for (Any detail : status.getDetailsList()) {
      if (detail.is(kind)) {
        try {
          return Optional.of(detail.unpack(kind));
        } catch (InvalidProtocolBufferException damaged) {
          return Optional.empty();
        }
      }
    }
    return Optional.empty();
  }
}
