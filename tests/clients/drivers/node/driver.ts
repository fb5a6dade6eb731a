/** Runs the cases that arrive as JSON lines, with the code of the example, and answers with a JSON line each. */

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { credentials, Metadata, type MethodDefinition, type ServiceError, type requestCallback } from "@grpc/grpc-js";
import * as pb from "../gen/imagegen/v1/imagegen.js";
import { generate } from "../src/generation.js";
import { Refusal } from "../src/refusal.js";

interface Case {
  address: string;
  ca: string;
  metadata: Record<string, string>;
  call: string;
  request: unknown;
  deadline: number; // seconds
  attempts: number;
  stop?: { after: string; by: string };
}

type Answer = Record<string, unknown>;

async function run(wanted: Case): Promise<Answer> {
  const security = wanted.ca ? credentials.createSsl(readFileSync(wanted.ca)) : credentials.createInsecure();
  const client = new pb.ImageGenClient(wanted.address, security);
  const metadata = new Metadata();
  for (const [key, value] of Object.entries(wanted.metadata)) metadata.set(key, value);
  const deadline = new Date(Date.now() + wanted.deadline * 1000);
  try {
    if (wanted.call === "GenerateImage") return await stream(client, wanted, metadata, deadline);
    return await unary(client, wanted, metadata, deadline);
  } finally {
    client.close();
  }
}

async function stream(client: pb.ImageGenClient, wanted: Case, metadata: Metadata, deadline: Date): Promise<Answer> {
  const events: string[] = [];
  const controller = new AbortController();
  const cancelled: Promise<unknown>[] = [];
  const onEvent = ({ requestId, event }: pb.GenerateImageResponse): void => {
    const name = snake(event?.$case ?? "");
    if (events.includes(name)) return;
    events.push(name);
    if (wanted.stop?.after !== name) return;
    if (wanted.stop.by === "call") controller.abort();
    else cancelled.push(call(client, pb.ImageGenService.cancelGeneration, { requestId }, new Metadata(), deadline));
  };
  try {
    const request = pb.GenerateImageRequest.fromJSON(wanted.request);
    const options = { deadline, attempts: wanted.attempts, signal: controller.signal, metadata, onEvent };
    const result = await generate(client, request, options);
    return {
      code: "OK",
      events,
      request_id: result.requestId,
      plan: result.plan ? pb.GenerationPlan.toJSON(result.plan) : {},
      completed: result.completed ? pb.Completed.toJSON(result.completed) : {},
      reattached: result.reattached,
      waits_ms: result.waits,
      images: result.images.map(({ header, data }) => ({ header: pb.ImageHeader.toJSON(header), bytes: data.length })),
    };
  } catch (error) {
    return { ...failure(error), events };
  } finally {
    await Promise.all(cancelled);
  }
}

async function unary(client: pb.ImageGenClient, wanted: Case, metadata: Metadata, deadline: Date): Promise<Answer> {
  const { listModels } = pb.ImageGenService;
  const methods: Record<string, { definition: MethodDefinition<any, any>; request: any; response: any }> = {
    CancelGeneration: {
      definition: pb.ImageGenService.cancelGeneration,
      request: pb.CancelGenerationRequest,
      response: pb.CancelGenerationResponse,
    },
    ListModels: { definition: listModels, request: pb.ListModelsRequest, response: pb.ListModelsResponse },
    GetServerInfo: {
      definition: pb.ImageGenService.getServerInfo,
      request: pb.GetServerInfoRequest,
      response: pb.GetServerInfoResponse,
    },
    GetGeneration: {
      definition: pb.ImageGenService.getGeneration,
      request: pb.GetGenerationRequest,
      response: pb.GetGenerationResponse,
    },
    RenderImage: {
      definition: pb.ImageGenService.renderImage,
      request: pb.RenderImageRequest,
      response: pb.RenderImageResponse,
    },
    NoSuchMethod: {
      definition: { ...listModels, path: "/imagegen.v1.ImageGen/NoSuchMethod" } as MethodDefinition<any, any>,
      request: pb.ListModelsRequest,
      response: pb.ListModelsResponse,
    },
  };
  const method = methods[wanted.call];
  if (!method) throw new Error(`no such call: ${wanted.call}`);
  try {
    const request = method.request.fromJSON(wanted.request);
    const response = await call(client, method.definition, request, metadata, deadline);
    return { code: "OK", response: method.response.toJSON(response) };
  } catch (error) {
    return failure(error);
  }
}

function call<I, O>(
  client: pb.ImageGenClient,
  { path, requestSerialize, responseDeserialize }: MethodDefinition<I, O>,
  request: I,
  metadata: Metadata,
  deadline: Date,
): Promise<O> {
  return new Promise((resolve, reject) => {
    const done: requestCallback<O> = (error: ServiceError | null, response?: O) =>
      error ? reject(new Refusal(error)) : resolve(response as O);
    client.makeUnaryRequest(path, requestSerialize, responseDeserialize, request, metadata, { deadline }, done);
  });
}

function failure(error: unknown): Answer {
  if (!(error instanceof Refusal)) return { code: "BROKEN", message: String(error) };
  const { info, resource, retryAfter } = error;
  return {
    code: error.code,
    message: error.message,
    request_id: error.requestId,
    ...(info && { reason: info.reason, domain: info.domain, metadata: info.metadata }),
    violations: error.violations.map(({ field, description }) => ({ field, description })),
    preconditions: error.preconditions.map(({ type, subject }) => ({ type, subject })),
    ...(resource && { resource: { type: resource.resourceType, name: resource.resourceName } }),
    ...(retryAfter !== undefined && { retry_after_ms: retryAfter }),
  };
}

function snake(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${JSON.stringify(await run(JSON.parse(line)))}\n`);
}
