// Which language the page speaks.

import en from "./words.en.js";
import zh from "./words.zh.js";

const LANGUAGES = { en, zh };

const wanted = localStorage.getItem("language") ?? navigator.language.slice(0, 2);

export const language = wanted in LANGUAGES ? wanted : "en";

const words = LANGUAGES[language];

/** The words of a key; those that need arguments are functions of them. */
export function t(key, ...given) {
  const found = words[key] ?? en[key];
  return typeof found === "function" ? found(...given) : (found ?? key);
}

/** Whether there are words of a key. */
export const knows = (key) => key in words;

/** Put words into the parts of a page that name theirs. */
export function translate(root) {
  document.documentElement.lang = language;
  for (const node of root.querySelectorAll("[data-word]")) node.textContent = t(node.dataset.word);
  for (const node of root.querySelectorAll("[data-label]")) {
    node.setAttribute("aria-label", t(node.dataset.label));
  }
}

export function speak(wanted) {
  localStorage.setItem("language", wanted);
  location.reload();
}
