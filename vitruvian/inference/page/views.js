// The page's parts, one at a time: each has an address, so that links and the browser's back button find it.

import { byId } from "./dom.js";

const NAMES = ["try", "evaluation", "card"];

/** Show what the address names, now and whenever it changes; `opened(name)` is told. */
export function listenForViews(opened) {
  let shown = null;

  const show = () => {
    const asked = location.hash.slice(1), name = NAMES.includes(asked) ? asked : (shown ?? "try");
    if (name === shown) return;
    for (const each of NAMES) {
      byId(`view-${each}`).hidden = each !== name;
      const link = document.querySelector(`.views a[href="#${each}"]`);
      if (each === name) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
    }
    // Who can't see it hears where they are.
    if (shown) byId(`view-${name}`).focus({ preventScroll: true });
    shown = name;
    opened(name);
  };

  addEventListener("hashchange", show);
  show();
}
