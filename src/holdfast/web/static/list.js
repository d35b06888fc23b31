// A list of which only what is in sight is on the page, however long it is.
//
// Items have heights of their own: they are guessed until measured. The item that has the focus
// stays on the page wherever it is, so that nobody is thrown out of a list that scrolls or sorts.

import { arrange, h } from "./dom.js";

const AHEAD = 600; // pixels above and below the window that are drawn as well
const GUESS = 180; // pixels of an item that nobody has measured

export class List {
  #make;
  #update;
  #entries = [];
  #cards = new Map();
  #heights = new Map();
  #width = 0;
  #due = false;

  /** `make(name)` gives an item with a `node`; `update(item, entry)` shows an entry in it. */
  constructor(make, update) {
    this.#make = make;
    this.#update = update;
    this.node = h("ul.list");
    addEventListener("scroll", () => this.draw(), { passive: true });
    new ResizeObserver(() => this.draw()).observe(this.node);
  }

  /** Names of what is drawn. */
  get inSight() {
    return [...this.#cards.keys()];
  }

  /** What the list holds now: objects with a `name`. */
  set(entries) {
    this.#entries = entries;
    this.draw();
  }

  /** Draw with the next picture. */
  draw() {
    if (this.#due) return;
    this.#due = true;
    requestAnimationFrame(() => {
      this.#due = false;
      if (this.node.isConnected) this.#draw();
    });
  }

  #draw() {
    if (this.node.clientWidth !== this.#width) {
      this.#width = this.node.clientWidth;
      this.#heights.clear();
    }
    // What is measured may bring other items into sight, whose heights are then known, too.
    for (let round = 0; round < 3; round += 1) {
      this.#drawRange();
      if (!this.#measure()) break;
    }
    this.#place();
  }

  #drawRange() {
    const above = -this.node.getBoundingClientRect().top;
    const from = above - AHEAD;
    const to = above + innerHeight + AHEAD;
    const focused = document.activeElement?.closest?.("li");
    const drawn = new Map();
    let top = 0;
    this.#entries.forEach((entry, index) => {
      const bottom = top + this.#heightOf(entry.name);
      const old = this.#cards.get(entry.name);
      if ((bottom > from && top < to) || (old && old.node === focused)) {
        const card = old ?? this.#make(entry.name);
        card.node.setAttribute("aria-posinset", index + 1);
        card.node.setAttribute("aria-setsize", this.#entries.length);
        this.#update(card, entry);
        drawn.set(entry.name, card);
      }
      top = bottom;
    });
    this.#cards = drawn;
    arrange(this.node, [...drawn.values()].map((card) => card.node));
  }

  /** Whether a height is other than was thought. */
  #measure() {
    let changed = false;
    for (const [name, card] of this.#cards) {
      const height = card.node.offsetHeight;
      if (this.#heights.get(name) !== height) {
        this.#heights.set(name, height);
        changed = true;
      }
    }
    return changed;
  }

  #place() {
    let top = 0;
    for (const { name } of this.#entries) {
      const card = this.#cards.get(name);
      if (card) card.node.style.top = `${top}px`;
      top += this.#heightOf(name);
    }
    this.node.style.height = `${top}px`;
  }

  #heightOf(name) {
    return this.#heights.get(name) ?? GUESS;
  }
}
