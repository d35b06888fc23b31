// What the status means: pure functions, the same rules as `holdfast status` follows.

/** The state that may be believed now; "unknown" when nothing may. */
export function believed(account, now, stale) {
  if (stale) return "unknown";
  if (account.state === "connected" && (account.valid_until ?? 0) < now) return "retrying";
  return account.state;
}

/** Whether somebody must act. A paused account is as somebody wants it. */
export const needsPerson = (account) =>
  !account.paused && (account.attention || account.state === "fatal");

const LOOPBACK = ["127.0.0.1", "localhost", "[::1]"];

/** Where to chat with it, as seen from a host; empty where there is no page, or none to reach. */
export function chatOf(account, host) {
  if (!account.page || account.state !== "connected") return "";
  // Without a public address the gateway knows the page by its own machine's alone.
  const isNear = LOOPBACK.includes(new URL(account.page).hostname);
  return isNear && !LOOPBACK.includes(host) ? "" : account.page;
}

/** In which order accounts need to be looked at. */
export const NEEDS = ["person", "down", "connecting", "doubt", "well", "off"];

export function needOf(account, now) {
  const state = believed(account, now, false);
  if (account.paused) return "off";
  if (needsPerson(account)) return "person";
  if (state === "connecting" || state === "stopping") return "connecting";
  // Whatever else it says: what nobody paused is wanted.
  if (state !== "connected") return "down";
  return account.suspect || account.flapping ? "doubt" : "well";
}

/** Since when it is down: an outage is not renewed by the tries to end it. */
export const downSince = (account) => account.outage_since ?? account.since;

/** Entries `{name, account, need}` in the order of need, the longest outage first. */
export function inOrder(accounts, now) {
  const entries = Object.entries(accounts).map(([name, account]) => {
    const need = needOf(account, now);
    const rank = NEEDS.indexOf(need);
    const since = need === "well" || need === "off" ? 0 : downSince(account);
    return { name, account, need, rank, since };
  });
  const byName = (a, b) => (a.name < b.name ? -1 : 1);
  return entries.sort((a, b) => a.rank - b.rank || a.since - b.since || byName(a, b));
}

/** What people filter by; each takes the entries of some needs. */
export const FILTERS = {
  all: NEEDS,
  person: ["person"],
  trouble: ["person", "down", "connecting", "doubt"],
  well: ["well"],
  off: ["off"],
};

/** The entries that a filter and the words of a search leave. */
export function found(entries, filter, search) {
  const needs = FILTERS[filter];
  const words = search.toLowerCase().split(/\s+/).filter(Boolean);
  return entries.filter(({ name, account, need }) => {
    if (!needs.includes(need)) return false;
    const text = `${name} ${account.platform} ${account.state} ${account.cause?.code ?? ""}`;
    return words.every((word) => text.toLowerCase().includes(word));
  });
}

/** Numbers of entries by need, and of all. */
export function counted(entries) {
  const counts = Object.fromEntries(NEEDS.map((need) => [need, 0]));
  for (const { need } of entries) counts[need] += 1;
  return counts;
}

/** The worst cause: an escalation that needs a person outweighs why the last try failed. */
export function worstCause(account) {
  const { cause, escalation } = account;
  return escalation && escalation.who_acts !== "nobody" ? escalation : cause;
}

/** The connected entry whose last proof of life is the oldest; null without any. */
export function oldestProof(entries) {
  let oldest = null;
  for (const { name, account, need } of entries) {
    const at = account.transport.at;
    if (need !== "well" || at === null) continue;
    if (!oldest || at < oldest.at) oldest = { name, at };
  }
  return oldest;
}
