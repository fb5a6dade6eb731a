// What the page shows, and what is typed into it. Knows index.html; makes no calls.

import { Stage, type Model } from "./gen/imagegen/v1/imagegen_pb.ts";
import type { Progress, Shown } from "./generation.ts";
import type { Refusal } from "./refusal.ts";

const NAMES: Partial<Record<Stage, string>> = {
  [Stage.QUEUED]: "Queue",
  [Stage.TEXT_ENCODE]: "Text",
  [Stage.BASE]: "Base",
  [Stage.REFINER]: "Refiner",
  [Stage.VAE_DECODE]: "Decode",
};

const LARGEST_SEED = 2n ** 63n - 1n;

function find<T extends HTMLElement>(id: string): T {
  const element = document.getElementById(id);
  if (!element) throw new Error(`index.html has no #${id}`);
  return element as T;
}

export class View {
  onGenerate: () => void = () => undefined;
  onCancel: () => void = () => undefined;

  #form = find<HTMLFormElement>("form");
  #generate = find<HTMLButtonElement>("generate");
  #cancel = find<HTMLButtonElement>("cancel");
  #status = find("status");
  #stages = find<HTMLOListElement>("stages");
  #bar = find<HTMLProgressElement>("bar");
  #image = find<HTMLImageElement>("image");
  #badge = find("badge");
  #frame = find("frame");
  #alert = find("alert");
  #again = find("again");
  #notes = find<HTMLUListElement>("notes");
  #facts = find<HTMLDListElement>("facts");
  #download = find<HTMLAnchorElement>("download");
  #url = "";
  #countdown: number | undefined;

  constructor() {
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.onGenerate();
    });
    this.#cancel.addEventListener("click", () => this.onCancel());
    for (const input of this.#form.querySelectorAll<HTMLInputElement>("input[type=range]")) {
      input.addEventListener("input", () => this.#showValue(input));
      this.#showValue(input);
    }
  }

  /** Returns what the form asks for, or undefined after marking a seed that cannot be sent. */
  request(): (Record<string, unknown> & { prompt: string }) | undefined {
    const typed = new FormData(this.#form);
    const seed = String(typed.get("seed") ?? "").trim();
    this.#clearRefusal();
    if (seed && (!/^\d{1,19}$/.test(seed) || BigInt(seed) > LARGEST_SEED)) {
      this.#mark("seed", `must be a whole number from 0 to ${LARGEST_SEED}`);
      return undefined;
    }
    return {
      prompt: String(typed.get("prompt") ?? ""),
      numInferenceSteps: Number(typed.get("num_inference_steps")),
      guidanceScale: Number(typed.get("guidance_scale")),
      useRefinement: typed.has("use_refinement"),
      ...(seed ? { seed: BigInt(seed) } : {}),
    };
  }

  /** Fits the form to the model that the server has loaded. */
  describe(model: Model): void {
    find("model").textContent = model.name;
    const { limits, defaults } = model;
    if (limits && defaults) {
      this.#range("num_inference_steps", limits.minSteps, limits.maxSteps, defaults.numInferenceSteps);
      this.#range("guidance_scale", limits.minGuidanceScale, limits.maxGuidanceScale, defaults.guidanceScale);
    }
  }

  /** Clears what the last generation left. */
  begun(): void {
    this.#busy(true);
    this.#notes.replaceChildren();
    this.#facts.replaceChildren();
    this.#download.hidden = true;
    this.#stages.replaceChildren();
    this.#bar.removeAttribute("value");
    this.#bar.hidden = false;
    this.#frame.dataset["state"] = "working";
    this.#status.textContent = "Asking the server …";
  }

  show(shown: Shown): void {
    this.#bar.value = shown.fraction;
    this.#stages.replaceChildren(...shown.stages.map(stageItem));
    this.#status.textContent = statusOf(shown);
    this.#notes.replaceChildren(...shown.notes.map((note) => element("li", note)));
    if (shown.picture) this.#showPicture(shown.picture);
    if (shown.completed) this.#complete(shown);
  }

  refused(refusal: Refusal): void {
    this.#bar.hidden = true;
    this.#frame.dataset["state"] = this.#image.src && !this.#badge.hidden ? "stopped" : "idle";
    if (refusal.title === "Cancelled") {
      this.#status.textContent = "Cancelled. The device stopped within a step.";
      return;
    }
    this.#status.textContent = "";
    const others: string[] = [];
    for (const [field, description] of refusal.fields) {
      if (!this.#mark(field, description)) others.push(`${field} ${description}`);
    }
    this.#alert.replaceChildren(element("strong", refusal.title), ...[refusal.message, ...others].filter(Boolean).map((line) => element("p", line)));
    if (refusal.retryAfter !== undefined) this.#count(refusal.retryAfter);
    if (refusal.reason) this.#alert.append(element("code", refusal.reason));
    this.#alert.hidden = false;
    this.#form.querySelector<HTMLElement>("[aria-invalid=true]")?.focus();
  }

  ended(): void {
    this.#busy(false);
  }

  #complete(shown: Shown): void {
    this.#bar.hidden = true;
    this.#frame.dataset["state"] = "done";
    const summary = shown.completed?.images[0];
    const took = shown.completed?.totalDuration;
    const seconds = took ? Number(took.seconds) + took.nanos / 1e9 : 0;
    const steps = shown.stages.filter((stage) => stage.total > 0).map((stage) => `${stage.done} ${(NAMES[stage.stage] ?? "").toLowerCase()}`);
    const facts: [string, string][] = [
      ["Time", `${seconds.toFixed(1)} s`],
      ["Steps", steps.join(" + ")],
      ["Seed", String(summary?.seed ?? "")],
      ["Size", `${shown.plan?.size?.width} × ${shown.plan?.size?.height}`],
      ["SHA-256", `${summary?.sha256.slice(0, 16)}…, ${shown.checked ? "checked" : "not checked: the page is neither on https nor on this machine"}`],
      ["Request", shown.requestId],
    ];
    this.#facts.replaceChildren(...facts.flatMap(([name, value]) => [element("dt", name), element("dd", value)]));
    this.#download.href = this.#url;
    this.#download.download = `${summary?.sha256.slice(0, 12) ?? "image"}.${shown.picture?.mimeType.split("/")[1] ?? "png"}`;
    this.#download.hidden = false;
  }

  #showPicture(picture: NonNullable<Shown["picture"]>): void {
    const before = this.#url;
    this.#url = URL.createObjectURL(new Blob([picture.data], { type: picture.mimeType }));
    this.#image.src = this.#url;
    this.#image.alt = picture.preview ? "Preview of the unfinished image" : `Generated image: ${find<HTMLTextAreaElement>("prompt").value}`;
    this.#image.hidden = false;
    this.#badge.hidden = !picture.preview;
    if (before) URL.revokeObjectURL(before);
  }

  #busy(busy: boolean): void {
    this.#generate.disabled = busy;
    this.#cancel.hidden = !busy;
    this.#frame.setAttribute("aria-busy", String(busy));
  }

  #range(name: string, min: number, max: number, value: number): void {
    const input = this.#form.elements.namedItem(name);
    if (!(input instanceof HTMLInputElement)) return;
    [input.min, input.max, input.value] = [String(min), String(max), String(value)];
    this.#showValue(input);
  }

  #showValue(input: HTMLInputElement): void {
    const output = this.#form.querySelector(`output[for="${input.id}"]`);
    if (output) output.textContent = input.value;
  }

  /** Writes what is wrong beside a field of the form; returns whether it has that field. */
  #mark(field: string, description: string): boolean {
    const input = this.#form.elements.namedItem(field);
    const place = document.getElementById(`${field}-error`);
    if (!(input instanceof HTMLElement) || !place) return false;
    input.setAttribute("aria-invalid", "true");
    place.textContent = description;
    return true;
  }

  #clearRefusal(): void {
    clearInterval(this.#countdown);
    this.#again.hidden = true;
    this.#alert.hidden = true;
    for (const input of this.#form.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
    for (const place of this.#form.querySelectorAll(".error")) place.textContent = "";
  }

  /** Tells those who listen once, in the alert, and counts down beside it for those who look. */
  #count(seconds: number): void {
    const line = element("p", `Try again in ${seconds} s.`);
    line.className = "heard";
    this.#alert.append(line);
    const until = Date.now() + seconds * 1000;
    const tell = (): void => {
      const left = Math.ceil((until - Date.now()) / 1000);
      this.#again.textContent = left > 0 ? `Try again in ${left} s.` : "Try again now.";
      if (left <= 0) clearInterval(this.#countdown);
    };
    tell();
    this.#again.hidden = false;
    this.#countdown = window.setInterval(tell, 250);
  }
}

function element(name: string, text: string): HTMLElement {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}

function stageItem(progress: Progress): HTMLElement {
  const item = element("li", "");
  item.dataset["state"] = progress.state;
  item.append(element("span", NAMES[progress.stage] ?? ""));
  if (progress.total > 0) item.append(element("small", `${progress.done}/${progress.total}`));
  if (progress.state === "running") item.setAttribute("aria-current", "step");
  return item;
}

function statusOf(shown: Shown): string {
  if (shown.completed) return "Done.";
  if (shown.ahead !== undefined) return shown.ahead > 0 ? `Waiting; ${shown.ahead} ahead in the queue.` : "Waiting for the device.";
  const now = shown.stages.find((stage) => stage.state === "running");
  const name = now && NAMES[now.stage];
  if (!now || !name) return "Sending the image …";
  const steps = now.total > 0 ? `, step ${now.done} of ${now.total}` : "";
  return `${name}${steps}${shown.eta === undefined ? "" : `, about ${Math.max(1, Math.round(shown.eta))} s left`}.`;
}
