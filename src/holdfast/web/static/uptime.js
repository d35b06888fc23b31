// Uptimes of the accounts that are looked at, fetched one by one, the last hour first.
//
// Ninety days are many pieces: they are fetched seldom, and their running day by itself.

import { ask, path } from "./api.js";
import { grouped, total } from "./bar.js";

const KINDS = [
  {
    query: "size=60&count=60",
    lasts_ms: 30_000,
    keep: (known, pieces) => ({ ...known, hour: pieces }),
  },
  {
    query: "size=3600&count=2160",
    lasts_ms: 3_600_000,
    keep: (known, pieces) => ({ ...known, days: grouped(pieces, 24) }),
  },
  {
    query: "size=3600&count=24",
    lasts_ms: 30_000,
    keep: (known, pieces) => ({ ...known, days: [...known.days.slice(0, -1), total(pieces)] }),
  },
];

const NOTHING = { hour: null, days: null };

const REST_MS = 5_000; // after a failure

export class Uptimes {
  #known = new Map();
  #fetched = new Map(KINDS.map((kind) => [kind, new Map()]));
  #wanted = [];
  #busy = false;
  #rest = 0;
  #changed;

  /** `changed(name)` is called when there is news of an account. */
  constructor(changed) {
    this.#changed = changed;
  }

  /** `{hour, days}` of an account: pieces of a minute and of a day, null while not known. */
  of(name) {
    return this.#known.get(name) ?? NOTHING;
  }

  /** Which accounts are in sight now. */
  look(names) {
    this.#wanted = names;
    this.#go();
  }

  /** What is known of an account is no longer so. */
  forget(name) {
    for (const kind of KINDS) if (kind.lasts_ms < 60_000) this.#fetched.get(kind).delete(name);
  }

  async #go() {
    if (this.#busy || performance.now() < this.#rest) return;
    this.#busy = true;
    for (let next = this.#next(); next; next = this.#next()) {
      if (!(await this.#fetch(...next))) break;
    }
    this.#busy = false;
  }

  #next() {
    const now = performance.now();
    for (const kind of KINDS) {
      const fetched = this.#fetched.get(kind);
      const isOld = (name) => now - (fetched.get(name) ?? -Infinity) > kind.lasts_ms;
      const name = this.#wanted.find(isOld);
      if (name !== undefined) return [name, kind];
    }
    return null;
  }

  async #fetch(name, kind) {
    const fetched = this.#fetched.get(kind);
    fetched.set(name, performance.now());
    try {
      const pieces = await ask(path("accounts", name, "uptime") + "?" + kind.query);
      this.#known.set(name, kind.keep(this.of(name), pieces));
      this.#changed(name);
      return true;
    } catch {
      this.#rest = performance.now() + REST_MS;
      fetched.delete(name);
      return false;
    }
  }
}
