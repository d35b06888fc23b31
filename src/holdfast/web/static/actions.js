// Who asked the gateway for what, refused or not.

import { ask } from "./api.js";
import { h, say } from "./dom.js";
import { clock } from "./time.js";
import { knows, t } from "./words.js";

const SHOWN = 100;

export class Actions {
  #account;
  #body = h("tbody");
  #none = h("p.quiet");
  #newest = "";

  constructor(account = null) {
    this.#account = account;
    const heads = ["when", "who-asked", "what", "outcome"].map((word) =>
      h("th", { scope: "col" }, t("action." + word)),
    );
    const table = h("table", {}, h("thead", {}, h("tr", {}, heads)), this.#body);
    const title = h(account === null ? "h1" : "h2", {}, t("nav.actions"));
    // It may be wider than a phone: then it is scrolled, by keyboard as well.
    const wide = { tabindex: 0, role: "group", "aria-label": t("nav.actions") };
    this.node = h("section", {}, title, this.#none, h("div.wide", wide, table));
  }

  get title() {
    return t("nav.actions");
  }

  show() {
    return this.refresh();
  }

  tick() {}

  async refresh() {
    try {
      const all = await ask(`/actions?limit=${this.#account === null ? SHOWN : 1000}`);
      const actions = all.filter((action) => this.#concerns(action)).slice(-SHOWN);
      say(this.#none, actions.length ? "" : t("action.none"));
      const newest = JSON.stringify(actions.at(-1) ?? "") + actions.length;
      if (newest === this.#newest) return;
      this.#newest = newest;
      this.#body.replaceChildren(...actions.reverse().map(rowOf));
    } catch (error) {
      say(this.#none, error.message);
    }
  }

  #concerns({ path }) {
    return this.#account === null || path.split("/").includes(this.#account);
  }
}

function rowOf({ at, who, what, path, status }) {
  const about = path.split("/").slice(4, -1).at(-1); // the gateway has decoded it
  const deed = knows(what) ? t(what) : what;
  const outcome = status === 200 ? t("action.done") : t("action.refused", status);
  return h(
    "tr",
    {},
    h("td", {}, clock(at)),
    h("td", {}, who),
    h("td", {}, about ? `${deed}: ${about}` : deed),
    h("td", {}, outcome),
  );
}
