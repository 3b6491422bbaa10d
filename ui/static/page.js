// Drawers, keys and the choice of light or dark. Widgets talk to Python; this talks to no one.
(() => {
  // A browser that forbids storage throws where it is named, in Gradio too, and the page would stay
  // empty: in its place, things are kept for as long as the page is open.
  for (const name of ["localStorage", "sessionStorage"]) {
    try {
      window[name].length;
    } catch {
      const held = new Map();
      const value = { getItem: (key) => held.get(key) ?? null, setItem: (key, text) => held.set(key, String(text)), removeItem: (key) => held.delete(key), clear: () => held.clear() };
      Object.defineProperty(window, name, { value });
    }
  }
  const body = () => document.body;
  const SHADED = ["presets", "export", "settings", "card"]; // nothing behind these can be reached
  const TURN = 60; // ms until a drawer that slides in takes the focus
  const open = []; // {name, opener: gets the focus back}; the details may lie over a phone's rack
  const top = () => open.at(-1)?.name;
  const place = (name) => document.querySelector(`#drawer-${name}`);
  const show = () => {
    const shaded = SHADED.includes(top());
    if (top()) body().dataset.drawer = top();
    else delete body().dataset.drawer;
    document.querySelectorAll("#top, #deck").forEach((node) => (node.inert = shaded));
    if (shaded) {
      const label = place(top()).querySelector("h2, [aria-label]");
      for (const [name, value] of [["role", "dialog"], ["aria-modal", "true"], ["aria-label", label?.getAttribute("aria-label") || label?.textContent]]) place(top()).setAttribute(name, value);
    }
    document.querySelectorAll("[data-open]").forEach((node) => node.setAttribute("aria-expanded", String(node.dataset.open === top())));
  };
  const close = () => {
    const last = open.pop();
    show();
    const back = last?.opener?.isConnected ? last.opener : document.querySelector(".sd-thread");
    if (last && open.length) setTimeout(() => back.focus({ preventScroll: true }), TURN);
    else if (last) back.focus({ preventScroll: true });
  };
  const drawer = (name) => {
    if (!name || top() === name) return close();
    const opener = SHADED.includes(top()) ? open.pop().opener : document.activeElement;
    open.push({ name, opener });
    show();
    setTimeout(() => place(name)?.querySelector("input, textarea, button")?.focus({ preventScroll: true }), TURN);
  };
  document.addEventListener("steerdeck:drawer", (event) => drawer(event.detail));
  document.addEventListener("click", (event) => {
    const target = event.target instanceof Element ? event.target : null;
    if (!target) return;
    const button = target.closest("[data-open]");
    if (button) return drawer(button.dataset.open);
    if (target.closest("[data-close]") || target.classList.contains("sd-shade")) return close();
    if (target.closest("[data-theme]")) localStorage.setItem("steerdeck-theme", body().classList.toggle("dark") ? "dark" : "light");
  });
  document.addEventListener("keydown", (event) => {
    if (event.isComposing) return; // the key ends a word of an input method
    const field = event.target instanceof Element && event.target.closest("input:not([type=range]):not([type=checkbox]), textarea, select, [contenteditable]");
    if (event.key === "/" && !field && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      if (SHADED.includes(top())) open.pop();
      if (!open.length && window.matchMedia("(max-width: 900px)").matches) open.push({ name: "rack", opener: document.activeElement });
      show();
      document.querySelector("#search input")?.focus();
    } else if (event.key === "Escape") {
      if (open.length) close();
      else if (body().classList.contains("sd-busy")) document.querySelector("#stop")?.click();
    }
  });
  const start = () => {
    const chosen = localStorage.getItem("steerdeck-theme");
    // Gradio sets the class from the system's preference when it mounts: the person's choice wins.
    if (chosen) new MutationObserver((_, watcher) => { watcher.disconnect(); body().classList.toggle("dark", chosen === "dark"); }).observe(body(), { attributes: true, attributeFilter: ["class"] });
    if (chosen) body().classList.toggle("dark", chosen === "dark");
  };
  if (document.body) start();
  else document.addEventListener("DOMContentLoaded", start);
})();
