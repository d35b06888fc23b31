// Causes in plain words: which kind of trouble it is, what the platform said, and what to do.

import { knows, language, t } from "./words.js";

/** Why, in a sentence for people. */
export function why(cause) {
  const plain = t("kind." + cause.kind);
  return cause.message ? t("why", plain.slice(0, -1), cause.message) : plain;
}

/** Who must act. */
export const whoActs = (cause) => t("who." + cause.who_acts);

/** What to do. The gateway's own hint is the most exact one, and it is in English. */
export function advice(cause, account) {
  const hint = cause.hint.replaceAll("ACCOUNT", account);
  const plain = "hint." + cause.kind;
  if (language === "en" || !knows(plain)) return hint;
  return cause.who_acts === "nobody" ? t(plain) : `${t(plain)} ${hint}`;
}
