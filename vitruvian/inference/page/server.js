// Asking the server: with a key where it wants one, and never failing but with a problem that can be shown.

import { byId } from "./dom.js";

const GONE = { title: "The server can't be reached", detail: "Check that it is running, then try again." };
let key = "";

/** Ask for a path below the page's own; returns {ok, body, milliseconds, retryAfter}. */
export async function ask(path, options = {}) {
  const headers = { Accept: "application/json", ...options.headers }, started = performance.now();
  if (key) headers["X-API-Key"] = key;
  try {
    const response = await fetch(path, { cache: "no-store", ...options, headers });
    const milliseconds = performance.now() - started, retryAfter = +response.headers.get("Retry-After") || 0;
    const json = /json/.test(response.headers.get("Content-Type"));
    const body = json ? await response.json() : await response.text();
    if (response.status === 401 || response.status === 403) byId("access").hidden = false;
    return { ok: response.ok, body: response.ok || json ? body : { title: `Status ${response.status}` }, milliseconds, retryAfter };
  } catch {
    return { ok: false, body: GONE, milliseconds: performance.now() - started, retryAfter: 0 };
  }
}

/** Let people give the key that a server may want; it is forgotten when the page is left. */
export function listenForKey(again) {
  byId("access").addEventListener("submit", (event) => {
    event.preventDefault();
    key = byId("key").value.trim();
    byId("access").hidden = true;
    again();
  });
}
