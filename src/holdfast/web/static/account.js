// One account with all that is known of it.

import { Actions } from "./actions.js";
import { Card } from "./card.js";
import { Facts, h, say, show } from "./dom.js";
import { Gaps } from "./gaps.js";
import { Incidents } from "./incident.js";
import { Letters } from "./letters.js";
import { t } from "./words.js";

const SETTLE_MS = 500; // several transitions of one moment are asked for at once

/** Where the messages of an account are, from its platform to the answer. */
const FLOW = ["received", "inbox", "outbox", "sent"];

/** What went another way. */
const ASTRAY = ["dead", "unknown", "skipped", "passed_over"];

export class AccountView {
  #page;
  #name;
  #card;
  #missing = h("p");
  #flow = {};
  #astray = new Facts();
  #parts;
  #timer = 0;

  constructor(page, name) {
    this.#page = page;
    this.#name = name;
    this.#card = new Card(name, page.lab, "div");
    this.#parts = [
      new Incidents(page, name),
      new Gaps(name),
      new Letters(page, name),
      new Actions(name),
    ];
    const steps = FLOW.map((step) => {
      this.#flow[step] = h("strong");
      return h("li", {}, this.#flow[step], t("flow." + step));
    });
    this.node = h(
      "div",
      {},
      h("h1", {}, h("a", { href: "#/", "aria-label": t("back") }, "←"), " ", name),
      this.#missing,
      this.#card.node,
      h("section", {}, h("h2", {}, t("flow")), h("ol.flow", {}, steps), this.#astray.node),
      ...this.#parts.map((part) => part.node),
    );
  }

  get title() {
    return this.#name;
  }

  show() {
    this.tick();
    return this.refresh();
  }

  /** An account has moved. */
  transition(one) {
    if (one.account !== this.#name) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.refresh(), SETTLE_MS);
  }

  async refresh() {
    for (const part of this.#parts) await part.refresh();
  }

  tick() {
    const { live, document, uptimes } = this.#page;
    const account = this.#entry()?.account;
    say(this.#missing, document && !account ? t("account.gone") : "");
    for (const step of FLOW) say(this.#flow[step], String(account?.[step] ?? "?"));
    for (const way of ASTRAY) {
      this.#astray.set(t("flow." + way), account?.[way] ? String(account[way]) : "");
    }
    this.redraw();
    for (const part of this.#parts) part.tick?.();
    if (account && !live.stale) uptimes.look([this.#name]);
  }

  redraw() {
    const { live, uptimes } = this.#page;
    const entry = this.#entry();
    show(this.#card.node, entry !== undefined);
    if (entry) this.#card.update(entry, live.now, live.stale, uptimes.of(this.#name));
  }

  #entry() {
    return this.#page.entries.find((entry) => entry.name === this.#name);
  }
}
