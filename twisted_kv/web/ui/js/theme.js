// Sets the theme before anything is drawn: what the person chose, or else what the system prefers. No module, so that it
// runs at once. The button is wired in main.js.
"use strict";

(() => {
  const KEY = "twisted_kv theme";
  const dark = matchMedia("(prefers-color-scheme: dark)");

  const system = () => (dark.matches ? "dark" : "light");

  function chosen() {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null; // a browser may keep nothing
    }
  }

  function show() {
    document.documentElement.dataset.theme = chosen() || system();
    document.dispatchEvent(new Event("themed"));
  }

  dark.addEventListener("change", show);
  show();

  /** Change to the other theme. Whoever comes back to the system's follows it from then on. */
  globalThis.changeTheme = () => {
    const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try {
      if (next === system()) localStorage.removeItem(KEY);
      else localStorage.setItem(KEY, next);
      show();
    } catch {
      document.documentElement.dataset.theme = next;
      document.dispatchEvent(new Event("themed"));
    }
  };
})();
