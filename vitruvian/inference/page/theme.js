// Light or dark: as the system says, until somebody chooses otherwise. No module, so that it runs before the first paint.
"use strict";
{
  const NAME = "vitruvian-theme", root = document.documentElement, system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  // Storage may be forbidden: then the choice lasts as long as the page.
  try { chosen = localStorage.getItem(NAME); } catch { /* as the system says */ }
  const dark = () => (chosen ? chosen === "dark" : system.matches);

  const apply = () => {
    root.dataset.theme = dark() ? "dark" : "light";
    const button = document.getElementById("theme");
    if (!button) return;
    button.hidden = false;
    button.setAttribute("aria-pressed", String(dark()));
  };

  const toggle = () => {
    chosen = dark() ? "light" : "dark";
    try { localStorage.setItem(NAME, chosen); } catch { /* until the page is left */ }
    apply();
  };

  apply();
  system.addEventListener("change", apply);
  document.addEventListener("DOMContentLoaded", () => {
    apply();
    document.getElementById("theme")?.addEventListener("click", toggle);
  });
}
