// Gaps: stretches of time whose messages may be missing, until somebody has seen to them.

import { attempt, confirmed } from "./act.js";
import { ask, order, path } from "./api.js";
import { h, say } from "./dom.js";
import { clock, duration } from "./time.js";
import { t } from "./words.js";

const SHOWN = 100;

export class Gaps {
  #account;
  #list = h("ul.gaps");
  #none = h("p.quiet");

  constructor(account) {
    this.#account = account;
    this.node = h("section", {}, h("h2", {}, t("gaps")), this.#none, this.#list);
  }

  async refresh() {
    const query = `?account=${encodeURIComponent(this.#account)}&limit=${SHOWN}`;
    try {
      const gaps = (await ask("/gaps" + query)).reverse();
      say(this.#none, gaps.length ? "" : t("gap.none"));
      const shown = [...this.#list.children].map((item) => item.dataset.number).join();
      if (shown === gaps.map((gap) => gap.number).join()) return;
      this.#list.replaceChildren(...gaps.map((gap) => this.#item(gap)));
    } catch (error) {
      say(this.#none, error.message);
    }
  }

  #item({ number, since, until, reason }) {
    const span = t("gap.span", clock(since), clock(until), duration(until - since));
    const dismiss = () => this.#dismiss(number, span);
    const label = `${t("gap.dismiss")} ${number}`;
    const button = h("button", { onclick: dismiss, "aria-label": label }, t("gap.dismiss"));
    return h("li", { "data-number": number }, span, h("span.quiet", {}, reason), button);
  }

  async #dismiss(number, span) {
    if (!(await confirmed(t("gap.ask"), span, t("gap.dismiss")))) return;
    await attempt(() => order(path("gaps", number, "dismiss")));
    await this.refresh();
  }
}
