// Where the lab runs, the cable of each platform can be pulled. A server that has cables says so
// with a header of its front page, so that others are not asked for what they do not have.

import { attempt } from "./act.js";
import { ask, order, path } from "./api.js";

const HEADER = "Holdfast-Lab";
const LOOK_MS = 1_000;

export class Lab {
  #cables = {};
  #changed;

  /** `changed()` is called when a cable was pulled or put back. */
  constructor(changed) {
    this.#changed = changed;
  }

  /** Find out whether there are cables, and follow them. */
  async start() {
    const front = await fetch("/", { method: "HEAD", cache: "no-store" }).catch(() => null);
    if (!front?.headers.has(HEADER)) return;
    await this.#look();
    setInterval(() => document.hidden || this.#look(), LOOK_MS);
  }

  /** Whether an account's cable is pulled; undefined when it has none. */
  isOut(name) {
    return this.#cables[name];
  }

  async toggle(name) {
    const deed = this.#cables[name] ? "heal" : "pull";
    const cables = await attempt(() => order(path("lab", "cables", name, deed)));
    if (cables) this.#set(cables);
  }

  async #look() {
    try {
      this.#set(await ask("/lab/cables"));
    } catch {
      // The gateway is gone; the page says so elsewhere.
    }
  }

  #set(cables) {
    const changed = JSON.stringify(cables) !== JSON.stringify(this.#cables);
    this.#cables = cables;
    if (changed) this.#changed();
  }
}
