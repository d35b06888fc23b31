// The page: which view is shown, how fresh it is, and what everybody must hear of.

import { AccountView } from "./account.js";
import { AccountsView, mood } from "./accounts.js";
import { Actions } from "./actions.js";
import { ask, hasLogin } from "./api.js";
import { say, show } from "./dom.js";
import { Incidents } from "./incident.js";
import { Lab } from "./lab.js";
import { Letters } from "./letters.js";
import { Live } from "./live.js";
import { counted, inOrder } from "./model.js";
import { duration } from "./time.js";
import { Uptimes } from "./uptime.js";
import { language, speak, t, translate } from "./words.js";

const TICK_MS = 1_000;
const REFRESH_MS = 10_000; // of what no event tells
const ANNOUNCE_MS = 5_000; // a screen reader is not to be talked over
const MOST = 1_000; // letters that are counted

const ICONS = { well: "icon", off: "icon", unknown: "icon-unknown" };

const part = (id) => document.getElementById(id);

/** What views share. */
const page = {
  document: null,
  entries: [],
  live: new Live({
    status: arrived,
    transition: moved,
    missed: () => view.refresh?.(),
    change: tick,
  }),
  uptimes: new Uptimes(() => view.redraw?.()),
  lab: new Lab(() => view.redraw?.()),
  count: countLetters,
};

const accounts = new AccountsView(page);
let view = accounts;
let announcedAt = -Infinity;
let counters = "";

// -- what comes ------------------------------------------------------------------------------

function arrived(status) {
  page.document = status;
  say(part("version"), `Holdfast ${status.version}`);
  const news = Object.values(status.accounts).map((one) => one.dead + one.unknown).join();
  if (news !== counters) countLetters();
  counters = news;
  tick();
}

function moved(transition) {
  page.uptimes.forget(transition.account);
  view.transition?.(transition);
}

async function countLetters() {
  const dead = await ask(`/dead?limit=${MOST}`).catch(() => null);
  if (!dead) return;
  const number = dead.messages.length;
  say(part("dead-count"), number ? (dead.more ? `${MOST}+` : String(number)) : "");
}

// -- what is always seen ------------------------------------------------------------------------

function tick() {
  const { live } = page;
  live.look();
  page.entries = inOrder(page.document?.accounts ?? {}, live.now);
  const link = part("link");
  link.dataset.state = live.state;
  say(link, t("link." + link.dataset.state, duration(live.silence)));
  alarm();
  const now = mood(counted(page.entries), live.stale, live.waiting);
  document.title = now.mood === "well" ? "Holdfast" : `${now.sentence} – Holdfast`;
  document.body.dataset.mood = now.mood;
  const icon = `/static/${ICONS[now.mood] ?? "icon-trouble"}.svg`;
  if (part("icon").getAttribute("href") !== icon) part("icon").setAttribute("href", icon);
  announce(now.sentence);
  view.tick();
}

/** Ask for what no event tells, if somebody looks. */
function refresh() {
  if (!document.hidden) view.refresh?.();
}

/** What makes everything else on the page doubtful. */
function alarm() {
  const { live } = page;
  const store = page.document?.store ?? "ok";
  const text = live.state === "stale" ? t("alarm.stale") : store === "ok" ? "" : t("alarm.store", store);
  say(part("alarm"), text);
}

function announce(sentence) {
  const now = performance.now();
  if (part("announced").textContent === sentence || now - announcedAt < ANNOUNCE_MS) return;
  announcedAt = now;
  say(part("announced"), sentence);
}

// -- views ------------------------------------------------------------------------------------

function chosen() {
  const [, name = "", rest = ""] = location.hash.split("/");
  switch (name) {
    case "account":
      return ["accounts", new AccountView(page, decoded(rest))];
    case "letters":
      return ["letters", new Letters(page)];
    case "incidents":
      return ["incidents", new Incidents(page)];
    case "actions":
      return ["actions", new Actions()];
    default:
      return ["accounts", accounts];
  }
}

/** A part of the address, which anybody may have typed: as it is where it decodes to nothing. */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function go(moving) {
  const [name, next] = chosen();
  view = next;
  part("main").replaceChildren(view.node);
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  view.show();
  if (!moving) return;
  scrollTo({ top: 0 });
  part("main").focus({ preventScroll: true });
}

// -- choices ------------------------------------------------------------------------------------

function dress(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  localStorage.setItem("theme", theme);
  part("theme").value = theme;
}

function shortcut(event) {
  const typing = event.target.closest("input, textarea, select, dialog");
  if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const search = part("search");
  if (!search) return;
  event.preventDefault();
  search.focus();
}

translate(document);
dress(localStorage.getItem("theme") ?? "");
part("language").value = language;
part("language").addEventListener("change", (event) => speak(event.target.value));
part("theme").addEventListener("change", (event) => dress(event.target.value));
addEventListener("hashchange", () => go(true));
addEventListener("keydown", shortcut);
go(false);
tick();
page.live.start();
page.lab.start();
setInterval(tick, TICK_MS);
setInterval(refresh, REFRESH_MS);
document.addEventListener("visibilitychange", refresh);
hasLogin().then((has) => show(part("logout"), has), () => {});
