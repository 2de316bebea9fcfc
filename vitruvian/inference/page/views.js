// The page's parts, one at a time: each has an address, so that links and the browser's back button find it.

import { byId } from "./dom.js";

const NAMES = ["try", "evaluation", "card"];

/** Show what the address names, now and whenever it changes; `opened(name)` is told. */
export function listenForViews(opened) {
  const show = (moved) => {
    const name = NAMES.includes(location.hash.slice(1)) ? location.hash.slice(1) : "try";
    for (const each of NAMES) {
      byId(`view-${each}`).hidden = each !== name;
      const link = document.querySelector(`.views a[href="#${each}"]`);
      if (each === name) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
    }
    opened(name);
    // Who can't see it hears where they are.
    if (moved) byId(`view-${name}`).focus({ preventScroll: true });
  };
  addEventListener("hashchange", () => show(true));
  show(false);
}
