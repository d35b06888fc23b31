// One account: which, since when, why, who must act, what to do, and buttons to do it.

import { act } from "./act.js";
import { Bar } from "./bar.js";
import { advice, whoActs, why } from "./cause.js";
import { Facts, h, say, show } from "./dom.js";
import { believed, chatOf, downSince, worstCause } from "./model.js";
import { ago, clock, duration } from "./time.js";
import { t } from "./words.js";

const SIGNS = {
  person: "✕",
  down: "!",
  connecting: "…",
  doubt: "?",
  well: "✓",
  off: "–",
  unknown: "?",
};

const FLAGS = ["suspect", "rotating", "flapping"];

export class Card {
  #sign = h("span.sign", { "aria-hidden": "true" });
  #state = h("strong");
  #since = h("span");
  #flags = h("span.flags");
  #life = h("p.life.quiet");
  #facts = new Facts();
  #hour = new Bar("bar.hour", 3_600);
  #days = new Bar("bar.days", 90 * 86_400);
  #platform = h("span.platform.quiet");
  #buttons = {};
  #chat;
  #cable;
  #lab;

  /** `lab` knows the cables that can be pulled, if any. */
  constructor(name, lab, tag = "li") {
    this.name = name;
    this.#lab = lab;
    const link = h("a", { href: "#/account/" + encodeURIComponent(name) }, name);
    const title = h("h2", {}, link, " ", this.#platform);
    for (const deed of ["kick", "pause", "resume"]) {
      this.#buttons[deed] = this.#button(t(deed), () => act(name, deed));
    }
    const chat = { target: "_blank", rel: "noopener", "aria-label": `${t("chat.open")} ${name}` };
    this.#chat = h("a.button", chat, t("chat.open"));
    this.#cable = this.#button("", () => lab.toggle(name));
    const card = h(
      "article.card",
      { "aria-label": name },
      h("div.head", {}, this.#sign, title, h("p.state", {}, this.#state, " ", this.#since)),
      this.#flags,
      this.#facts.node,
      this.#life,
      h("div.bars", {}, this.#hour.node, this.#days.node),
      h("div.row", {}, ...Object.values(this.#buttons), this.#chat, this.#cable),
    );
    this.node = h(tag, {}, card);
  }

  #button(text, onclick) {
    return h("button", { onclick, "aria-label": `${text} ${this.name}` }, text);
  }

  /** Show an entry of the status. `stale` is whether the page has lost the gateway. */
  update({ account, need }, now, stale, uptime) {
    const state = believed(account, now, stale);
    this.node.firstChild.dataset.need = stale ? "unknown" : need;
    say(this.#sign, SIGNS[stale ? "unknown" : need]);
    say(this.#platform, account.platform);
    say(this.#state, account.paused && !stale ? t("paused") : t("state." + state));
    say(this.#since, this.#span(account, need, now, stale));
    const flags = FLAGS.filter((flag) => account[flag]).map((flag) => t("flag." + flag));
    say(this.#flags, stale ? "" : flags.join(" · "));
    this.#explain(account, need, now, stale);
    say(this.#life, lifeOf(account, now));
    this.#hour.set(uptime.hour);
    this.#days.set(uptime.days);
    show(this.#buttons.kick, !account.paused && state !== "connected");
    show(this.#buttons.pause, !account.paused);
    show(this.#buttons.resume, account.paused);
    this.#showChat(stale ? "" : chatOf(account, location.hostname));
    this.#showCable();
  }

  #span(account, need, now, stale) {
    if (stale) return t("last-known", t("state." + account.state));
    const down = !["well", "doubt", "off"].includes(need);
    const since = down ? downSince(account) : account.since;
    return t("for-since", duration(now - since), clock(since));
  }

  #explain(account, need, now, stale) {
    const facts = this.#facts;
    const trouble = !stale && ["person", "down", "connecting"].includes(need);
    const cause = trouble ? worstCause(account) : null;
    facts.set(t("fact.why"), cause ? why(cause) : "");
    const last = trouble && account.cause !== cause ? account.cause : null;
    facts.set(t("fact.last-try"), last ? why(last) : "");
    facts.set(t("fact.who"), cause ? whoActs(cause) : "");
    facts.set(t("fact.do"), cause ? advice(cause, this.name) : "");
    facts.set(t("fact.next"), trouble ? nextTry(account, now) : "");
    facts.set(t("fact.waits"), waits(account));
  }

  #showChat(url) {
    show(this.#chat, url !== "");
    if (url && this.#chat.getAttribute("href") !== url) this.#chat.setAttribute("href", url);
  }

  #showCable() {
    const out = this.#lab.isOut(this.name);
    show(this.#cable, out !== undefined);
    if (out === undefined) return;
    const text = out ? t("cable.heal") : t("cable.pull");
    say(this.#cable, text);
    this.#cable.setAttribute("aria-label", `${text} ${this.name}`);
  }
}

/** When it last proved to be alive. */
function lifeOf(account, now) {
  const { transport, inbound, outbound } = account;
  return [
    t("life.transport", ago(transport.at, now)),
    t("life.inbound", ago(inbound.at, now)),
    t("life.outbound", ago(outbound.at, now)),
  ].join(" · ");
}

/** When it is tried next, counting down. */
function nextTry(account, now) {
  if (account.next_retry_at !== null && account.state !== "connecting") {
    const wait = Math.ceil(account.next_retry_at - now);
    const when = wait > 0 ? t("next.in", duration(wait)) : t("next.now");
    return account.attempt ? t("next.after", when, account.attempt) : when;
  }
  return account.step ? t("next.step", account.step) : t("next.now");
}

/** What people wait for. */
function waits(account) {
  const parts = [];
  if (account.inbox) parts.push(t("waits.inbox", account.inbox));
  if (account.outbox) parts.push(t("waits.outbox", account.outbox));
  return parts.join(", ");
}
