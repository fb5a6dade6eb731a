/** What a call that failed says about itself. */

import { status as codes, type Metadata, type ServiceError } from "@grpc/grpc-js";
import {
  BadRequest,
  type BadRequest_FieldViolation,
  ErrorInfo,
  PreconditionFailure,
  type PreconditionFailure_Violation,
  ResourceInfo,
  RetryInfo,
} from "../gen/google/rpc/error_details.js";
import { Status } from "../gen/google/rpc/status.js";

/** A call that ended with a status other than OK. */
export class Refusal extends Error {
  readonly code: string;
  readonly requestId: string;
  /** Unset: the transport failed, not the service. */
  info?: ErrorInfo;
  violations: BadRequest_FieldViolation[] = [];
  preconditions: PreconditionFailure_Violation[] = [];
  resource?: ResourceInfo;
  /** Milliseconds until a new attempt makes sense; unset if the server does not ask for one. */
  retryAfter?: number;

  constructor(error: ServiceError) {
    super(error.details, { cause: error });
    this.name = "Refusal";
    this.code = codes[error.code] ?? "UNKNOWN";
    this.requestId = first(error.metadata, "x-request-id");
    const details = error.metadata?.get("grpc-status-details-bin")[0];
    if (details instanceof Buffer) this.read(Status.decode(details));
    // The trailer has the last word: a negative or unreadable number means "do not retry".
    const pushback = first(error.metadata, "grpc-retry-pushback-ms");
    if (pushback !== "") this.retryAfter = Number(pushback) >= 0 ? Number(pushback) : undefined;
  }

  /**
   * The connection broke, which is INTERNAL where a proxy noticed it, or nobody answered: the service gives every error of
   * its own an ErrorInfo.
   */
  get lost(): boolean {
    return (this.code === "UNAVAILABLE" || this.code === "INTERNAL") && this.info === undefined;
  }

  private read(status: Status): void {
    for (const { typeUrl, value } of status.details) {
      switch (typeUrl.slice(typeUrl.lastIndexOf("/") + 1)) {
        case "google.rpc.ErrorInfo":
          this.info = ErrorInfo.decode(value);
          break;
        case "google.rpc.BadRequest":
          this.violations = BadRequest.decode(value).fieldViolations;
          break;
        case "google.rpc.PreconditionFailure":
          this.preconditions = PreconditionFailure.decode(value).violations;
          break;
        case "google.rpc.ResourceInfo":
          this.resource = ResourceInfo.decode(value);
          break;
        case "google.rpc.RetryInfo": {
          const delay = RetryInfo.decode(value).retryDelay;
          this.retryAfter = Number(delay?.seconds ?? 0n) * 1000 + (delay?.nanos ?? 0) / 1e6;
          break;
        }
      }
    }
  }
}

/** Returns the first value of a metadata key, or "". */
function first(metadata: Metadata | undefined, key: string): string {
  return metadata?.get(key)[0]?.toString() ?? "";
}
