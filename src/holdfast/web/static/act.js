// Acting on the gateway: ask first, then say what came of it.

import { order, path } from "./api.js";
import { h } from "./dom.js";
import { t } from "./words.js";

const SHOWN_MS = 8_000; // a mistake stays until it is closed

/** Ask a person; whether it was confirmed. */
export function confirmed(question, consequence, yes) {
  const dialog = h(
    "dialog",
    { "aria-labelledby": "question", "aria-describedby": "consequence" },
    h("h2", { id: "question" }, question),
    h("p", { id: "consequence" }, consequence),
    h(
      "form.row",
      { method: "dialog" },
      h("button", { value: "" }, t("cancel")),
      h("button.strong", { value: "yes" }, yes),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
  });
}

/** Tell what came of an action, for eyes and for screen readers. */
export function tell(text, hint = "", bad = false) {
  const close = h("button", { "aria-label": t("close"), onclick: () => note.remove() }, "×");
  const note = h(bad ? "p.note.bad" : "p.note", {}, text, hint ? h("span", {}, hint) : null, close);
  document.getElementById("told").append(note);
  if (!bad) setTimeout(() => note.remove(), SHOWN_MS);
}

/** Do something that may be refused; what it came to, or null. */
export async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    tell(error.message, error.hint ?? "", true);
    return null;
  }
}

/** Kick, pause or resume an account, once it is confirmed. */
export async function act(name, deed) {
  const ask = [t(`${deed}.ask`, name), t(`${deed}.means`), t(deed)];
  if (!(await confirmed(...ask))) return;
  const done = await attempt(() => order(path("accounts", name, deed)));
  if (done) tell(t(`${deed}.done`, name));
}
