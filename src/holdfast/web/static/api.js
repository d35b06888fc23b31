// The gateway's API; its reference is served at /api/.

const PREFIX = "/api/v1";

const PATIENCE_MS = 15_000; // for an answer; a stop of an account takes up to 5 s

/** What went wrong with a request, and how to mend it, both in words. */
export class Refused extends Error {
  constructor(message, hint, status) {
    super(message);
    this.hint = hint;
    this.status = status;
  }
}

/** What a question is answered with. Throws Refused; status 0 is no answer at all. */
export const ask = (path) => request("GET", path);

/** What an order is answered with. Throws Refused. */
export const order = (path, body) => request("POST", path, body);

/** A path with its parts made safe: `path("accounts", name, "kick")`. */
export const path = (...parts) => "/" + parts.map(encodeURIComponent).join("/");

async function request(method, path, body) {
  const options = { method, signal: AbortSignal.timeout(PATIENCE_MS) };
  if (body !== undefined) options.body = JSON.stringify(body);
  let response;
  try {
    response = await fetch(PREFIX + path, options);
  } catch (error) {
    throw new Refused("The gateway does not answer.", String(error.message), 0);
  }
  if (response.status === 401) location.assign("/login");
  const told = await response.json().catch(() => ({}));
  if (response.ok) return told;
  throw new Refused(told.error ?? response.statusText, told.hint ?? "", response.status);
}

/** Whether there is a log-in to log out of: without one, the page of it leads elsewhere. */
export async function hasLogin() {
  const answer = await fetch("/login", { credentials: "omit", redirect: "manual" });
  return answer.ok;
}
