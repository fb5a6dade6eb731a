// A failed call as people can read it: what is wrong with which field, and when to try again.

import { Code, ConnectError } from "@connectrpc/connect";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.ts";

/** Why there is no image. */
export interface Refusal {
  /** One line. */
  readonly title: string;
  /** What the server says, without what `fields` say already. */
  readonly message: string;
  /** What is wrong, by the request's field name. */
  readonly fields: ReadonlyMap<string, string>;
  /** Seconds after which it may go better; undefined if the server does not say. */
  readonly retryAfter?: number;
  /** For programs and reports, such as QUEUE_FULL. */
  readonly reason: string;
}

const TITLES: Partial<Record<Code, string>> = {
  [Code.InvalidArgument]: "The request is not right",
  [Code.NotFound]: "That does not exist here",
  [Code.ResourceExhausted]: "The server is full",
  [Code.Unavailable]: "The server cannot take the call",
  [Code.DataLoss]: "The image arrived damaged",
  [Code.DeadlineExceeded]: "There was not enough time",
  [Code.Unauthenticated]: "The server wants to know who calls",
  [Code.PermissionDenied]: "That is not allowed",
  [Code.Canceled]: "Cancelled",
};

/** Returns what to tell about a call that ended with `error`. */
export function refusalOf(error: unknown): Refusal {
  const failure = ConnectError.from(error);
  const fields = new Map<string, string>();
  for (const { fieldViolations } of failure.findDetails(BadRequestSchema)) {
    for (const { field, description } of fieldViolations) fields.set(field, description);
  }
  const delay = failure.findDetails(RetryInfoSchema)[0]?.retryDelay;
  const reason = failure.findDetails(ErrorInfoSchema)[0]?.reason ?? Code[failure.code] ?? "";
  return {
    title: reason === "GPU_OUT_OF_MEMORY" ? "The device has too little memory" : (TITLES[failure.code] ?? "It went wrong"),
    message: fields.size > 0 ? "" : failure.rawMessage,
    fields,
    retryAfter: delay && Math.ceil(Number(delay.seconds) + delay.nanos / 1e9),
    reason,
  };
}
