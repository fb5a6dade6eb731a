// The page: a form, one generation at a time over gRPC-Web, and what becomes of it.

import { createClient } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { ImageGen, type Model } from "./gen/imagegen/v1/imagegen_pb.ts";
import { Generation } from "./generation.ts";
import { refusalOf } from "./refusal.ts";
import { View } from "./view.ts";

const client = createClient(ImageGen, createGrpcWebTransport({ baseUrl: location.origin }));
const view = new View();
const PREVIEWS = 12;

let running: AbortController | undefined;

async function describeServer(): Promise<void> {
  try {
    const { models } = await client.listModels({});
    const loaded: Model | undefined = models.find((model) => model.loaded);
    if (loaded) view.describe(loaded);
  } catch (error) {
    view.refused(refusalOf(error));
  }
}

async function generate(): Promise<void> {
  const typed = view.request();
  if (!typed || running) return;
  const own = (running = new AbortController());
  const generation = new Generation();
  view.begun();
  try {
    const request = { ...typed, progress: { previewCount: PREVIEWS, minInterval: { seconds: 0n, nanos: 100_000_000 } } };
    for await (const response of client.generateImage(request, { signal: own.signal })) {
      view.show(generation.take(response));
    }
    view.show(await generation.check());
  } catch (error) {
    own.abort(); // leaving early stops the server
    view.refused(refusalOf(error));
  } finally {
    running = undefined;
    view.ended();
  }
}

view.onGenerate = () => void generate();
view.onCancel = () => running?.abort(); // Envoy hears it, and the server stops within a step
void describeServer();
