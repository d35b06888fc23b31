// Moments and spans of time in words.

import { language, t } from "./words.js";

const UNITS = [[86_400, "d"], [3_600, "h"], [60, "min"], [1, "s"]];

/** A span with its two largest units, for example "2 h 5 min". */
export function duration(seconds) {
  let rest = Math.max(0, Math.round(seconds));
  const parts = [];
  for (const [size, unit] of UNITS) {
    const whole = Math.floor(rest / size);
    rest -= whole * size;
    if (whole) parts.push(t("unit." + unit, whole));
    else if (parts.length) break;
    if (parts.length === 2) break;
  }
  return parts.join(" ") || t("unit.s", 0);
}

/** How long ago a moment was. */
export const ago = (at, now) => (at === null ? t("never") : t("ago", duration(now - at)));

// Of the language that is spoken here, the kind that the reader is used to.
const locale = navigator.languages.find((one) => one.startsWith(language)) ?? language;

const sameDay = new Intl.DateTimeFormat(locale, { timeStyle: "medium" });
const otherDay = new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "medium" });

/** A moment in local time, with its date unless that is today's. */
export function clock(at) {
  const moment = new Date(at * 1000);
  const today = moment.toDateString() === new Date().toDateString();
  return (today ? sameDay : otherDay).format(moment);
}
