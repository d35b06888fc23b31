// Incidents: when and why an account was not connected, told as a time line.

import { ask, path } from "./api.js";
import { advice, whoActs, why } from "./cause.js";
import { arrange, Facts, h, say } from "./dom.js";
import { clock, duration } from "./time.js";
import { t } from "./words.js";

const SHOWN = 50;

/** One incident: a line that opens into its time line. */
class IncidentLine {
  #incident = null;
  #line = h("summary");
  #facts = new Facts();
  #steps = h("ol.timeline");

  constructor() {
    this.node = h("details.incident", {}, this.#line, this.#facts.node, this.#steps);
  }

  /** Show it as it is now: one that lasts grows. */
  update(incident, now) {
    const lasts = incident.until === null;
    const span = duration((incident.until ?? now) - incident.since);
    const end = lasts ? t("incident.lasts", span) : t("incident." + incident.end, span);
    const code = incident.cause ? ` · ${incident.cause.code}` : "";
    say(this.#line, `${incident.account} · ${clock(incident.since)} · ${end}${code}`);
    this.node.dataset.lasts = lasts;
    if (JSON.stringify(incident) === JSON.stringify(this.#incident)) return;
    this.#incident = incident;
    this.#explain(incident);
    this.#steps.replaceChildren(...stepsOf(incident));
  }

  #explain({ account, cause, last_cause: last, attempts }) {
    this.#facts.set(t("fact.why"), cause ? why(cause) : t("unknown"));
    this.#facts.set(t("fact.last-try"), last ? why(last) : "");
    this.#facts.set(t("fact.who"), cause ? whoActs(last ?? cause) : "");
    this.#facts.set(t("fact.do"), cause ? advice(last ?? cause, account) : "");
    this.#facts.set(t("fact.attempts"), String(attempts));
  }
}

function stepsOf(incident) {
  const { since, until, life_before: before, life_after: after, moments, omitted } = incident;
  const steps = [];
  if (before !== null) steps.push(step("life", before, since, t("step.life-before")));
  moments.forEach((moment, i) => {
    if (omitted && i === moments.length / 2) {
      steps.push(h("li.omitted", {}, t("step.omitted", omitted)));
    }
    steps.push(step(moment.state, moment.at, since, toldOf(moment, i === 0)));
  });
  if (after !== null) steps.push(step("life", after, since, t("step.life-after")));
  if (until !== null) {
    const told = t("incident." + incident.end, duration(until - since));
    steps.push(step(incident.end, until, since, told));
  }
  return steps;
}

function step(kind, at, since, text) {
  const offset = at - since;
  const sign = offset < 0 ? "−" : "+";
  const time = h("time", { datetime: new Date(at * 1000).toISOString() }, clock(at));
  const relative = h("span.quiet", {}, ` ${sign}${duration(Math.abs(offset))} `);
  return h("li", { "data-kind": kind }, time, relative, text);
}

/** What a moment changed: it was lost, it waits with a reason, or it tries again. */
function toldOf({ state, attempt, message, code, retry_in: wait }, first) {
  if (state === "connected") return t("state.connected");
  const failures = attempt ? t("step.failures", attempt) : "";
  if (wait === null && state !== "fatal" && !first) return join(t("step.trying"), failures);
  const reason = message ? `${message} [${code}]` : code;
  const next = wait > 0 ? t("step.next", duration(wait)) : "";
  return join(t(first ? "step.lost" : "state." + state), reason, failures, next);
}

const join = (...parts) => parts.filter(Boolean).join(" · ");

/** The newest incidents of an account, or of all, the newest first. */
export class Incidents {
  #page;
  #account;
  #incidents = [];
  #lines = new Map();
  #list = h("div");
  #none = h("p.quiet");

  constructor(page, account = null) {
    this.#page = page;
    this.#account = account;
    const level = account === null ? "h1" : "h2";
    this.node = h("section", {}, h(level, {}, t("nav.incidents")), this.#none, this.#list);
  }

  get title() {
    return t("nav.incidents");
  }

  show() {
    return this.refresh();
  }

  /** Ask for what there is now. */
  async refresh() {
    const of = this.#account === null ? "/incidents" : path("accounts", this.#account, "incidents");
    try {
      this.#incidents = (await ask(`${of}?limit=${SHOWN}`)).reverse();
      say(this.#none, this.#incidents.length ? "" : t("incident.none"));
    } catch (error) {
      say(this.#none, error.message);
    }
    this.tick();
  }

  tick() {
    const lines = new Map();
    for (const incident of this.#incidents) {
      const line = this.#lines.get(incident.number) ?? new IncidentLine();
      line.update(incident, this.#page.live.now);
      lines.set(incident.number, line);
    }
    this.#lines = lines;
    arrange(this.#list, [...lines.values()].map((line) => line.node));
  }
}
