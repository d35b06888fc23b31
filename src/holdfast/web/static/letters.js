// Messages that need somebody, or still wait: dead letters, replies, questions.

import { attempt, confirmed, tell } from "./act.js";
import { ask, order, path } from "./api.js";
import { arrange, Facts, h, say, show } from "./dom.js";
import { ago } from "./time.js";
import { t } from "./words.js";

const SHOWN = 200;

/** What can be looked at, and where it is found. */
const KINDS = {
  dead: "/dead?",
  replies: "/outbox?state=owed&state=sending&state=ambiguous&",
  questions: "/inbox?state=received&state=handling&",
};

/** One message. */
class LetterItem {
  #box;
  #state = h("strong");
  #facts = new Facts();
  #text = h("blockquote");
  #more;

  constructor(name, changed) {
    this.name = name;
    const label = t("letter.choose", name);
    this.#box = h("input", { type: "checkbox", "aria-label": label, onchange: changed });
    this.#more = h("button", { onclick: () => this.#showAll() }, t("letter.all"));
    const head = h("label.row", {}, this.#box, h("code", {}, name), this.#state);
    this.node = h("li.letter", {}, head, this.#facts.node, this.#text, this.#more);
  }

  get chosen() {
    return this.#box.checked;
  }

  set chosen(chosen) {
    this.#box.checked = chosen;
  }

  update(letter, now, mendable) {
    say(this.#state, t("letter." + letter.state));
    show(this.#box, mendable);
    const facts = this.#facts;
    facts.set(t("fact.account"), letter.account);
    facts.set(t("fact.chat"), letter.sender ? `${letter.chat} · ${letter.sender}` : letter.chat);
    facts.set(t("fact.when"), ago(letter.at, now));
    facts.set(t("fact.why"), letter.reason);
    facts.set(t("fact.attempts"), letter.attempts ? String(letter.attempts) : "");
    const names = letter.files.map((file) => file.name || file.kind).join(", ");
    facts.set(t("fact.files"), names);
    if (!this.#text.dataset.whole) say(this.#text, letter.text);
    show(this.#more, letter.text.endsWith("…") && !this.#text.dataset.whole);
  }

  async #showAll() {
    const letter = await attempt(() => ask(path("messages", this.name)));
    if (!letter) return;
    say(this.#text, letter.text);
    this.#text.dataset.whole = "yes";
    show(this.#more, false);
  }
}

/** The messages of a kind, of one account or of all. */
export class Letters {
  #page;
  #account;
  #kind = "dead";
  #found = [];
  #items = new Map();
  #list = h("ul.letters");
  #none = h("p.quiet");
  #hand = h("div.row.hand");
  #tabs;

  constructor(page, account = null) {
    this.#page = page;
    this.#account = account;
    const all = () => this.#choose(![...this.#items.values()].every((item) => item.chosen));
    this.#hand.append(
      h("button", { onclick: all }, t("letter.choose-all")),
      h("button", { onclick: () => this.#mend("retry") }, t("retry")),
      h("button", { onclick: () => this.#mend("drop") }, t("drop")),
    );
    const title = h(account === null ? "h1" : "h2", {}, t("nav.letters"));
    this.#tabs = this.#kinds();
    this.node = h("section", {}, title, this.#tabs, this.#hand, this.#none, this.#list);
  }

  get title() {
    return t("nav.letters");
  }

  show() {
    return this.refresh();
  }

  async refresh() {
    const of = this.#account === null ? "" : `account=${encodeURIComponent(this.#account)}&`;
    try {
      const { messages } = await ask(`${KINDS[this.#kind]}${of}limit=${SHOWN}`);
      this.#found = messages.reverse();
      say(this.#none, messages.length ? "" : t("letter.none-" + this.#kind));
    } catch (error) {
      say(this.#none, error.message);
    }
    this.tick();
  }

  tick() {
    const mendable = this.#kind === "dead";
    const items = new Map();
    for (const letter of this.#found) {
      const item = this.#items.get(letter.name) ?? new LetterItem(letter.name, () => this.#count());
      item.update(letter, this.#page.live.now, mendable);
      items.set(letter.name, item);
    }
    this.#items = items;
    arrange(this.#list, [...items.values()].map((item) => item.node));
    show(this.#hand, mendable && items.size > 0);
    this.#count();
  }

  #count() {
    const none = !this.#chosen().length;
    for (const button of [...this.#hand.children].slice(1)) button.disabled = none;
  }

  #chosen() {
    return [...this.#items.values()].filter((item) => item.chosen).map((item) => item.name);
  }

  #choose(chosen) {
    for (const item of this.#items.values()) item.chosen = chosen;
    this.#count();
  }

  async #mend(deed) {
    const names = this.#chosen();
    const ask = [t(`${deed}.ask`, names.length), t(`${deed}.means`), t(deed)];
    if (!(await confirmed(...ask))) return;
    const outcomes = await attempt(() => order(`/messages/${deed}`, { names }));
    const failed = (outcomes ?? []).filter((one) => one.error);
    const done = (outcomes ?? []).length - failed.length;
    if (done) tell(t(`${deed}.done`, done));
    for (const one of failed) tell(`${one.name}: ${one.error}`, one.hint, true);
    this.#choose(false);
    await this.refresh();
    this.#page.count();
  }

  #kinds() {
    const choose = (event) => {
      this.#kind = event.target.value;
      this.#found = [];
      this.refresh();
    };
    const group = this.#account === null ? "kind" : "kind-of-account";
    const radios = Object.keys(KINDS).map((kind) => {
      const checked = kind === this.#kind;
      const radio = h("input", { type: "radio", name: group, value: kind, checked });
      return h("label.chip", {}, radio, h("span", {}, t("letters." + kind)));
    });
    const legend = h("legend.unseen", {}, t("letters.kind"));
    return h("fieldset.chips", { onchange: choose }, legend, ...radios);
  }
}
