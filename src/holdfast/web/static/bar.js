// Uptime bars: green ground, red spikes; what is not known is left grey.

import { h } from "./dom.js";
import { duration } from "./time.js";
import { t } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";

const GROUND = 0.5; // height of a piece that was up; downtime stands out without its colour, too
const WHOLE = 0.95; // share of a span from which on it counts as known
const LEAST = 0.3; // height of the smallest spike above it

/** Pieces of uptime added up, so many at a time. The newest group may be shorter. */
export function grouped(pieces, size) {
  const groups = [];
  for (let end = pieces.length; end > 0; end -= size) {
    groups.unshift(total(pieces.slice(Math.max(0, end - size), end)));
  }
  return groups;
}

/** The seconds of some pieces by standing. */
export function total(pieces) {
  const sum = { up: 0, down: 0, off: 0 };
  for (const piece of pieces) for (const key in sum) sum[key] += piece[key];
  return sum;
}

/** The share of the wanted time, for example "99.98 %"; never rounded up to 100. */
export function percent({ up, down }) {
  if (up + down === 0) return t("bar.unknown");
  const share = (100 * up) / (up + down);
  const digits = share > 99 && share < 100 ? 2 : share < 100 ? 1 : 0;
  return (Math.floor(share * 10 ** digits) / 10 ** digits).toFixed(digits) + " %";
}

/** A bar with its caption: how much of which time. */
export class Bar {
  #span;
  #caption;
  #svg;
  #paths = {};
  #shown;

  /** `word` names the `span`, which has so many seconds. */
  constructor(word, span) {
    this.#span = span;
    this.#caption = h("span");
    this.#svg = document.createElementNS(SVG, "svg");
    this.#svg.setAttribute("role", "img");
    this.#svg.setAttribute("preserveAspectRatio", "none");
    for (const kind of ["none", "off", "up", "down"]) {
      this.#paths[kind] = document.createElementNS(SVG, "path");
      this.#paths[kind].classList.add(kind);
      this.#svg.append(this.#paths[kind]);
    }
    this.word = word;
    this.node = h("div.bar", {}, this.#svg, this.#caption);
    this.set(null);
  }

  /** Show pieces; null when they are not known yet. */
  set(pieces) {
    if (pieces === this.#shown) return;
    this.#shown = pieces;
    const shapes = { none: "", off: "", up: "", down: "" };
    (pieces ?? []).forEach((piece, i) => draw(shapes, piece, i));
    this.#svg.setAttribute("viewBox", `0 0 ${Math.max(1, pieces?.length ?? 0)} 1`);
    for (const kind in shapes) this.#paths[kind].setAttribute("d", shapes[kind]);
    const sum = total(pieces ?? []);
    const known = sum.up + sum.down + sum.off;
    const part = known > 0 && known < WHOLE * this.#span ? t("bar.part", duration(known)) : "";
    const text = `${t(this.word)}: ${percent(sum)}${part}`;
    this.#caption.textContent = text;
    const down = sum.down >= 1 ? t("bar.down", duration(sum.down)) : t("bar.never-down");
    this.#svg.setAttribute("aria-label", `${text}. ${sum.up + sum.down > 0 ? down : ""}`);
  }
}

function draw(shapes, { up, down, off }, i) {
  const box = (height) => `M${i} ${(1 - height).toFixed(3)}h.8V1h-.8z`;
  if (up + down + off < 1) shapes.none += box(GROUND / 2);
  else if (up + down < off) shapes.off += box(GROUND / 2);
  else shapes.up += box(GROUND);
  // A second at a time is no outage: it is what switching from one connection to the next takes.
  if (down >= 1) shapes.down += box(GROUND + LEAST + (1 - GROUND - LEAST) * (down / (up + down)));
}
