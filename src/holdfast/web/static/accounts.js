// The first view: how all are, in one sentence; then the accounts in the order of need.

import { Card } from "./card.js";
import { h, say } from "./dom.js";
import { List } from "./list.js";
import { counted, FILTERS, found, oldestProof } from "./model.js";
import { duration } from "./time.js";
import { t } from "./words.js";

/** What the counts of the needs come to: one word that colours the page, and a sentence. */
export function mood(counts, stale, waiting) {
  const wanted = counts.person + counts.down + counts.connecting + counts.doubt + counts.well;
  const lost = counts.person + counts.down + counts.connecting;
  if (waiting) return { mood: "unknown", sentence: t("mood.waiting") };
  if (stale) return { mood: "unknown", sentence: t("mood.unknown") };
  if (counts.person) {
    return { mood: "person", sentence: t("mood.person", counts.person, lost, wanted) };
  }
  if (lost) return { mood: "down", sentence: t("mood.down", lost, wanted) };
  if (!wanted) return { mood: "off", sentence: t("mood.off") };
  return { mood: "well", sentence: t("mood.well", wanted) };
}

export class AccountsView {
  #page;
  #filter = "all";
  #summary = h("h1");
  #evidence = h("p.quiet");
  #head;
  #search;
  #count = h("p.quiet", { role: "status" });
  #options = {};
  #list;

  /** `page` has the accounts in order, the link to the gateway, the uptimes and the lab. */
  constructor(page) {
    this.#page = page;
    const label = { "aria-label": t("summary") };
    this.#head = h("section.summary", label, this.#summary, this.#evidence);
    this.#search = h("input", {
      type: "search",
      id: "search",
      placeholder: t("search"),
      "aria-label": t("search"),
      oninput: () => this.tick(),
    });
    this.#list = new List(
      (name) => new Card(name, page.lab),
      (card, entry) => {
        const { live, uptimes } = page;
        card.update(entry, live.now, live.stale, uptimes.of(card.name));
      },
    );
    this.node = h(
      "div",
      {},
      this.#head,
      h("div.tools", { role: "search" }, this.#search, this.#filters()),
      this.#count,
      this.#list.node,
    );
  }

  get title() {
    return t("nav.accounts");
  }

  show() {
    this.tick();
  }

  /** A second has passed, a status has come, or it is to be seen in another way. */
  tick() {
    const { entries, live, uptimes } = this.#page;
    const counts = counted(entries);
    const { mood: colour, sentence } = mood(counts, live.stale, live.waiting);
    this.#head.dataset.mood = colour;
    say(this.#summary, sentence);
    say(this.#evidence, live.stale ? "" : this.#proof());
    for (const [filter, needs] of Object.entries(FILTERS)) {
      const number = needs.reduce((sum, need) => sum + counts[need], 0);
      say(this.#options[filter], t("filter." + filter, number));
    }
    const shown = found(entries, this.#filter, this.#search.value);
    const all = entries.length;
    say(this.#count, shown.length === all ? "" : t("shown", shown.length, all));
    this.#list.set(shown);
    if (!live.stale) uptimes.look(this.#list.inSight);
  }

  /** Draw again what has news. */
  redraw() {
    this.#list.draw();
  }

  /** Why the sentence above may be believed. */
  #proof() {
    const { entries, live } = this.#page;
    const oldest = oldestProof(entries);
    return oldest ? t("proof", duration(live.now - oldest.at), oldest.name) : "";
  }

  #filters() {
    const choose = (event) => {
      this.#filter = event.target.value;
      this.tick();
      scrollTo({ top: 0 });
    };
    const radios = Object.keys(FILTERS).map((filter) => {
      const checked = filter === this.#filter;
      const radio = h("input", { type: "radio", name: "filter", value: filter, checked });
      this.#options[filter] = h("span");
      return h("label.chip", {}, radio, this.#options[filter]);
    });
    return h(
      "fieldset.chips",
      { onchange: choose },
      h("legend.unseen", {}, t("filter")),
      ...radios,
    );
  }
}
