// The gateway's events, and how long ago it was heard.
//
// What holds for the gateway's connections holds for this one: an open socket proves nothing, a
// silent one is probed and then replaced, and what was heard last is believed no longer than its
// time to live. The probe asks for a status of its own, so the page lives behind a proxy, too, that
// holds streams back.
//
// A browser opens six connections to a host, and a stream has one for as long as it lives. So a page
// that nobody looks at rests: it lets go of its stream, and knows nothing until it is heard again.

import { ask } from "./api.js";

const FIRST_MS = 1_000; // the ladder of tries: doubled to 30 s, spread over its upper half
const LONGEST_MS = 30_000;
const REST_MS = 5_000; // hidden for so long, a page rests
const WATCH = "holdfast.watch"; // the lock of the one hidden page that does not
const PROBE = 0.6; // part of the time to live after which silence is asked about

/** Calls `on.status(document)`, `on.transition(one)`, `on.missed()` and `on.change()`. */
export class Live {
  #on;
  #source = null;
  #timer = 0;
  #failures = 0;
  #began = performance.now();
  #opened = 0;
  #probing = false;
  #hiding = 0;
  #resting = false;
  #rested = false; // and nothing was heard since
  #release = () => {};
  #last = "";
  #heard = null;
  #ttl = 10;

  constructor(on) {
    this.#on = on;
  }

  start() {
    this.#open();
    addEventListener("online", () => this.#again(0));
    addEventListener("pageshow", (event) => event.persisted && this.#again(0));
    document.addEventListener("visibilitychange", () => this.#turned());
    this.#turned();
  }

  /** Seconds since a status was heard, by whichever clock says more; Infinity before the first.
   *  The steady clock stands still while a machine sleeps, the other may be set. */
  get silence() {
    if (!this.#heard) return Infinity;
    const steady = performance.now() - this.#heard.steady;
    return Math.max(steady, Date.now() - this.#heard.wall) / 1000;
  }

  /** Whether what was heard may no longer be believed. */
  get stale() {
    return this.#rested || this.silence > this.#ttl;
  }

  /** One word: "waiting" for the first status, "live", "returning" from a rest, or "stale". */
  get state() {
    if (this.waiting) return "waiting";
    if (!this.stale) return "live";
    const returning = this.#rested && (this.#resting || this.#tried <= this.#ttl);
    return returning ? "returning" : "stale";
  }

  /** The gateway's clock, in Unix seconds: the browser's own may be wrong. */
  get now() {
    return this.#heard ? this.#heard.written + this.silence : Date.now() / 1000;
  }

  get waiting() {
    return this.#heard === null;
  }

  /** Seconds since it began to listen, for the first time or after a rest. */
  get #tried() {
    return (performance.now() - this.#began) / 1000;
  }

  /** To be called every second: probe a stream that is silent, replace one that stays so. */
  look() {
    if (this.#resting) return;
    if (Math.min(this.silence, this.#tried) > PROBE * this.#ttl) this.#probe();
    const open = (performance.now() - this.#opened) / 1000;
    if (this.#source && this.stale && open > this.#ttl) this.#failed();
  }

  async #probe() {
    if (this.#probing) return;
    this.#probing = true;
    // A refusal leads to the log-in; everything else is told by the silence that goes on.
    const status = await ask("/status").catch(() => null);
    this.#probing = false;
    if (status) this.#hear(status);
  }

  #turned() {
    clearTimeout(this.#hiding);
    if (document.hidden) this.#hiding = setTimeout(() => this.#leave(), REST_MS);
    else this.#return();
  }

  /** Rest, unless no other hidden page watches: the title of one goes on telling of trouble. */
  async #leave() {
    // Browsers have locks only where the connection is safe: over HTTPS or from the same machine.
    if (!navigator.locks) return this.#rest();
    await navigator.locks.request(WATCH, { ifAvailable: true }, (lock) => {
      if (!document.hidden) return;
      if (lock) return new Promise((release) => (this.#release = release));
      this.#rest();
    });
  }

  #rest() {
    this.#resting = this.#rested = true;
    this.#close();
    this.#on.change();
  }

  #return() {
    this.#release();
    if (!this.#resting) return this.look();
    this.#resting = false;
    this.#failures = 0;
    this.#began = performance.now();
    this.#open();
    this.#on.change();
  }

  #hear(status) {
    if (this.#resting) return; // an answer to what was asked before
    this.#rested = false;
    this.#heard = { steady: performance.now(), wall: Date.now(), written: status.written_at };
    this.#ttl = status.ttl;
    this.#on.status(status);
  }

  #open() {
    this.#opened = performance.now();
    const query = this.#last ? "?last=" + encodeURIComponent(this.#last) : "";
    const source = new EventSource("/api/v1/events" + query);
    this.#source = source;
    source.onerror = () => this.#failed();
    source.addEventListener("status", (event) => {
      this.#last = event.lastEventId;
      this.#failures = 0;
      this.#hear(JSON.parse(event.data).status);
    });
    source.addEventListener("transition", (event) => {
      this.#last = event.lastEventId;
      this.#on.transition(JSON.parse(event.data).transition);
    });
    source.addEventListener("missed", () => this.#on.missed());
  }

  #failed() {
    const step = Math.min(LONGEST_MS, FIRST_MS * 2 ** this.#failures);
    this.#failures += 1;
    this.#again(step * (0.5 + Math.random() / 2));
    this.#on.change();
  }

  #close() {
    this.#source?.close();
    this.#source = null;
    clearTimeout(this.#timer);
  }

  #again(delay) {
    if (this.#resting) return;
    this.#close();
    this.#timer = setTimeout(() => {
      // An event stream does not tell why it was refused; this does, and leads to the log-in.
      if (this.#failures) ask("/actions?limit=1").catch(() => {});
      this.#open();
    }, delay);
  }
}
