// One generation as it goes on: events come in, what a page shows comes out. Knows no page.

import { Code, ConnectError } from "@connectrpc/connect";
import { type GenerateImageResponse, type GenerationPlan, type Completed, Stage } from "./gen/imagegen/v1/imagegen_pb.ts";

/** A stage that a page shows, in order of time. */
export interface Progress {
  readonly stage: Stage;
  /** Steps executed so far, of `total`; both 0 for stages without steps. */
  readonly done: number;
  readonly total: number;
  readonly state: "waiting" | "running" | "ended";
}

/** What a page shows of a generation. */
export interface Shown {
  readonly requestId: string;
  readonly plan?: GenerationPlan;
  readonly stages: readonly Progress[];
  /** Part of the device's work that is done, 0 to 1. */
  readonly fraction: number;
  /** Seconds until the device's work ends, as the server estimates. */
  readonly eta?: number;
  /** Generations ahead in the queue; undefined once the device has begun. */
  readonly ahead?: number;
  /** The latest picture: a preview, then the image. */
  readonly picture?: { readonly data: Uint8Array<ArrayBuffer>; readonly mimeType: string; readonly preview: boolean };
  /** What the server departed from or warns of, for people. */
  readonly notes: readonly string[];
  /** Set once the image is there whole. */
  readonly completed?: Completed;
  /** Whether the image's SHA-256 was compared with the announced one, which browsers can on https and on this machine. */
  readonly checked?: boolean;
}

const SHOWN_STAGES = [Stage.QUEUED, Stage.TEXT_ENCODE, Stage.BASE, Stage.REFINER, Stage.VAE_DECODE] as const;

/** Collects the events of one generation of one image. */
export class Generation {
  #shown: Shown = {
    requestId: "",
    stages: SHOWN_STAGES.map((stage) => ({ stage, done: 0, total: 0, state: "waiting" })),
    fraction: 0,
    notes: [],
  };
  #file: Uint8Array<ArrayBuffer> = new Uint8Array();
  #mimeType = "";
  #announced = "";
  #completed?: Completed;

  get shown(): Shown {
    return this.#shown;
  }

  /** Takes an event in, and returns what to show now. Events that are not known change nothing. */
  take(response: GenerateImageResponse): Shown {
    const { event } = response;
    this.#update({ requestId: response.requestId });
    switch (event.case) {
      case "accepted":
        this.#accept(event.value.plan, event.value.queuePosition);
        break;
      case "queueUpdate":
        this.#update({ ahead: event.value.position });
        break;
      case "stageStarted":
        this.#stage(event.value.stage, { state: "running", total: event.value.totalSteps });
        if (event.value.stage !== Stage.QUEUED) this.#update({ ahead: undefined });
        break;
      case "stepProgress": {
        const { stage, completedSteps, totalSteps, overallFraction, eta } = event.value;
        this.#stage(stage, { state: "running", done: completedSteps, total: totalSteps });
        this.#update({ fraction: overallFraction, eta: eta && Number(eta.seconds) + eta.nanos / 1e9 });
        break;
      }
      case "stageCompleted":
        this.#stage(event.value.stage, { state: "ended", done: event.value.steps });
        break;
      case "preview":
        this.#update({ picture: { data: copy(event.value.data), mimeType: event.value.mimeType, preview: true } });
        break;
      case "imageHeader":
        this.#file = new Uint8Array(Number(event.value.sizeBytes));
        this.#mimeType = event.value.mimeType;
        this.#announced = event.value.sha256;
        break;
      case "imageChunk":
        this.#file.set(event.value.data, Number(event.value.offset));
        break;
      case "fallback":
      case "warning":
        this.#update({ notes: [...this.#shown.notes, event.value.message] });
        break;
      case "completed":
        this.#completed = event.value;
        break;
    }
    return this.#shown;
  }

  /** Makes sure that everything came, and that it is what the server sent; returns what to show of it. */
  async check(): Promise<Shown> {
    if (!this.#completed) throw new ConnectError("the stream ended early", Code.Unavailable);
    const hash = await sha256(this.#file);
    if (hash !== undefined && hash !== this.#announced) {
      throw new ConnectError("its SHA-256 is not the one that the server announced", Code.DataLoss);
    }
    const picture = { data: this.#file, mimeType: this.#mimeType, preview: false };
    this.#update({ completed: this.#completed, checked: hash !== undefined, fraction: 1, eta: undefined, picture });
    return this.#shown;
  }

  #accept(plan: GenerationPlan | undefined, ahead: number): void {
    const planned = new Map(plan?.stages.map((stage) => [stage.stage, stage.steps]));
    const stages = this.#shown.stages
      .filter(({ stage }) => stage === Stage.QUEUED || planned.has(stage))
      .map((progress) => ({ ...progress, total: planned.get(progress.stage) ?? 0 }));
    this.#update({ plan, stages, ahead });
  }

  #stage(stage: Stage, change: Partial<Progress>): void {
    this.#update({ stages: this.#shown.stages.map((each) => (each.stage === stage ? { ...each, ...change } : each)) });
  }

  #update(change: Partial<Shown>): void {
    this.#shown = { ...this.#shown, ...change };
  }
}

/** Returns lower-case hexadecimal digits, or undefined where the browser does not offer it. */
async function sha256(data: Uint8Array<ArrayBuffer>): Promise<string | undefined> {
  if (!globalThis.isSecureContext) return undefined;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function copy(data: Uint8Array): Uint8Array<ArrayBuffer> {
  return new Uint8Array(data);
}
