/**
 * Generates one image: shows the progress, checks the hash, writes the file, explains a refusal.
 *
 *     npm start -- --address localhost:50051 --seed 7 --output circle.png "a red circle on a blue background"
 */

import { randomUUID } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { credentials, Metadata } from "@grpc/grpc-js";
import {
  GenerateImageRequest,
  type GenerateImageResponse,
  ImageGenClient,
  OnDisconnect,
} from "../gen/imagegen/v1/imagegen.js";
import { generate } from "./generation.js";
import { Refusal } from "./refusal.js";

const LARGEST_SEED = 2n ** 63n - 1n;
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    address: { type: "string", default: "localhost:50051" },
    ca: { type: "string" }, // PEM file with the authority of the server's certificate; plain text without it
    seed: { type: "string" },
    output: { type: "string", short: "o", default: "image.png" },
    timeout: { type: "string", default: "300" }, // seconds
  },
});

function seedOf(text: string | undefined): bigint | undefined {
  if (text === undefined) return undefined;
  if (/^\d{1,19}$/.test(text) && BigInt(text) <= LARGEST_SEED) return BigInt(text);
  console.error(`--seed must be a whole number from 0 to ${LARGEST_SEED}`);
  process.exit(2);
}

function show({ requestId, event }: GenerateImageResponse): void {
  switch (event?.$case) {
    case "accepted":
      console.error(`accepted as ${requestId}, seed ${event.accepted.plan?.seed}`);
      break;
    case "stepProgress": {
      const { stage, completedSteps, totalSteps, overallFraction } = event.stepProgress;
      console.error(`${stage} ${completedSteps}/${totalSteps}, ${Math.round(100 * overallFraction)} %`);
      break;
    }
    case "fallback":
      console.error(`fallback: ${event.fallback.message}`);
      break;
    case "warning":
      console.error(`warning: ${event.warning.message}`);
      break;
  }
}

function explain(error: unknown): void {
  if (!(error instanceof Refusal)) return console.error(String(error)); // a damaged image, or Ctrl-C before a new attempt
  console.error(`${error.code}: ${error.message}`);
  for (const { field, description } of error.violations) console.error(`  ${field}: ${description}`);
  if (error.retryAfter !== undefined) console.error(`  try again in ${error.retryAfter} ms`);
}

/**
 * Ends a generation that would go on for nobody: after Ctrl-C, or when the time is up. One that has ended, or never began,
 * is left as it is.
 */
function stop(requestId: string): Promise<void> {
  const deadline = new Date(Date.now() + 5000);
  return new Promise((resolve) => {
    client.cancelGeneration({ requestId }, new Metadata(), { deadline }, () => resolve());
  });
}

const interrupted = new AbortController();
process.once("SIGINT", () => interrupted.abort()); // Ctrl-C cancels
const security = values.ca ? credentials.createSsl(readFileSync(values.ca)) : credentials.createInsecure();
// Probes notice a connection that is lost without being closed. The server ends connections that are probed more often
// than every 10 s.
const probes = { "grpc.keepalive_time_ms": 30_000, "grpc.keepalive_timeout_ms": 20_000 };
const client = new ImageGenClient(values.address, security, probes);
const request = GenerateImageRequest.fromPartial({
  requestId: randomUUID(),
  prompt: positionals[0] ?? "",
  onDisconnect: OnDisconnect.ON_DISCONNECT_CONTINUE, // it outlives a broken connection, and this call
  seed: seedOf(values.seed),
});
try {
  const { images } = await generate(client, request, {
    deadline: new Date(Date.now() + Number(values.timeout) * 1000),
    attempts: 5,
    signal: interrupted.signal,
    onEvent: show,
  });
  const [image] = images;
  if (image) {
    writeFileSync(values.output, image.data);
    console.log(image.header.sha256);
  }
} catch (error) {
  explain(error);
  process.exitCode = 1;
  await stop(request.requestId);
} finally {
  client.close();
}
