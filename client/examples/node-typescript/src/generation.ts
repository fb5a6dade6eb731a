/** One generation: follows the stream, puts the images together, checks their hashes, waits as long as the server asks. */

import { createHash } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { type ClientReadableStream, Metadata, type ServiceError } from "@grpc/grpc-js";
import {
  type Completed,
  type GenerateImageRequest,
  type GenerateImageResponse,
  type GenerationPlan,
  type ImageChunk,
  type ImageGenClient,
  type ImageHeader,
  OnDisconnect,
} from "../gen/imagegen/v1/imagegen.js";
import { Refusal } from "./refusal.js";

/** One received file. Its hash has been checked. */
export interface Image {
  header: ImageHeader;
  data: Buffer;
}

export interface Options {
  /** When to give up, attempts and waits included. */
  deadline?: Date;
  /** How often to try when the server refuses for now; 1 by default. */
  attempts?: number;
  /** Cancels the call, which stops the device, unless the request says ON_DISCONNECT_CONTINUE. */
  signal?: AbortSignal;
  metadata?: Metadata;
  /** Sees every event as it arrives; use it to show progress. */
  onEvent?: (response: GenerateImageResponse) => void;
}

/** What a generation came to. */
export class Result {
  requestId = "";
  /** Of the last event that was received. */
  sequence = 0n;
  plan?: GenerationPlan;
  /** Unset with validateOnly. */
  completed?: Completed;
  images: Image[] = [];
  /** Milliseconds for which each refusal was waited out. */
  waits: number[] = [];
  /** How often the connection broke. */
  reattached = 0;
  private chunks: Uint8Array[] = [];
  private received = 0;

  /** Puts one event in its place. Events that this client does not know are none of its business. */
  take(response: GenerateImageResponse): void {
    this.requestId = response.requestId;
    this.sequence = response.sequence;
    const event = response.event;
    switch (event?.$case) {
      case "accepted":
        this.plan = event.accepted.plan;
        break;
      case "imageHeader":
        this.images.push({ header: event.imageHeader, data: Buffer.alloc(0) });
        this.chunks = [];
        this.received = 0;
        break;
      case "imageChunk":
        this.append(event.imageChunk);
        break;
      case "completed":
        this.completed = event.completed;
        break;
    }
  }

  private append(chunk: ImageChunk): void {
    const image = this.images.at(-1);
    if (image?.header.imageIndex !== chunk.imageIndex || Number(chunk.offset) !== this.received) {
      throw new Error(`a chunk of image ${chunk.imageIndex} is missing before byte ${chunk.offset}`);
    }
    this.chunks.push(chunk.data);
    this.received += chunk.data.length;
    if (this.received === Number(image.header.sizeBytes)) image.data = Buffer.concat(this.chunks);
  }

  /** Makes sure that everything came, and that it is what the server sent. Images arrive as they are ready. */
  check(validateOnly: boolean): void {
    if (!this.completed && !validateOnly) throw new Error("the stream ended before the generation did");
    this.images.sort((one, other) => one.header.imageIndex - other.header.imageIndex);
    for (const { header, data } of this.images) {
      if (createHash("sha256").update(data).digest("hex") !== header.sha256) {
        throw new Error(`image ${header.imageIndex} is damaged: its SHA-256 is not the one announced`);
      }
    }
  }
}

/**
 * Runs a generation and returns its images.
 *
 * A refusal that says when to come back is waited out and tried again, while there are attempts and time left. If the
 * connection breaks, and the request says ON_DISCONNECT_CONTINUE, the generation goes on and this re-attaches to it. Every
 * other failure is thrown as a Refusal.
 */
export async function generate(
  client: ImageGenClient,
  request: GenerateImageRequest,
  options: Options = {},
): Promise<Result> {
  const result = new Result();
  for (let attempt = 1; ; attempt++) {
    try {
      await (result.plan ? reattach(client, result, options) : begin(client, request, result, options));
      result.check(request.validateOnly);
      return result;
    } catch (error) {
      if (!(error instanceof Refusal) || attempt >= (options.attempts ?? 1)) throw error;
      if (result.plan) {
        if (!error.lost || request.onDisconnect !== OnDisconnect.ON_DISCONNECT_CONTINUE) throw error;
        result.reattached++;
      } else {
        if (error.retryAfter === undefined || !timeFor(error.retryAfter, options.deadline)) throw error;
        result.waits.push(error.retryAfter);
        await sleep(error.retryAfter, undefined, { signal: options.signal });
      }
    }
  }
}

function timeFor(milliseconds: number, deadline?: Date): boolean {
  return deadline === undefined || Date.now() + milliseconds < deadline.getTime();
}

async function begin(
  client: ImageGenClient,
  request: GenerateImageRequest,
  result: Result,
  options: Options,
): Promise<void> {
  const call = client.generateImage(request, options.metadata ?? new Metadata(), { deadline: options.deadline });
  await follow(call, (response) => response, result, options);
}

/** Goes on where the last event left off; no event is missed. */
async function reattach(client: ImageGenClient, result: Result, options: Options): Promise<void> {
  const metadata = (options.metadata ?? new Metadata()).clone();
  metadata.setOptions({ waitForReady: true });
  const request = { requestId: result.requestId, afterSequence: result.sequence };
  const call = client.watchGeneration(request, metadata, { deadline: options.deadline });
  await follow(call, ({ response }) => response, result, options);
}

/** Reads a call to its end. */
async function follow<T>(
  call: ClientReadableStream<T>,
  unwrap: (message: T) => GenerateImageResponse | undefined,
  result: Result,
  { signal, onEvent }: Options,
): Promise<void> {
  const cancel = () => call.cancel();
  signal?.addEventListener("abort", cancel);
  try {
    for await (const message of call) {
      const response = unwrap(message);
      if (!response) continue;
      result.take(response);
      onEvent?.(response);
    }
  } catch (error) {
    call.cancel(); // leaving early stops the server
    throw isServiceError(error) ? new Refusal(error) : error;
  } finally {
    signal?.removeEventListener("abort", cancel);
  }
}

function isServiceError(error: unknown): error is ServiceError {
  return error instanceof Error && "code" in error && "details" in error && "metadata" in error;
}
