// Drawers, keys and the choice of light or dark. Widgets talk to Python; this talks to no one.
(() => {
  const body = () => document.body;
  let opener = null; // gets the focus back
  const drawer = (name) => {
    if (name && !body().dataset.drawer) opener = document.activeElement;
    if (name && body().dataset.drawer !== name) {
      body().dataset.drawer = name;
      setTimeout(() => document.querySelector(`#drawer-${name}`)?.querySelector("input, textarea, button")?.focus({ preventScroll: true }), 60);
    } else {
      delete body().dataset.drawer;
      opener?.focus({ preventScroll: true });
      opener = null;
    }
    document.querySelectorAll("[data-open]").forEach((node) => node.setAttribute("aria-expanded", String(node.dataset.open === body().dataset.drawer)));
  };
  document.addEventListener("steerdeck:drawer", (event) => drawer(event.detail));
  document.addEventListener("click", (event) => {
    const target = event.target instanceof Element ? event.target : null;
    if (!target) return;
    const button = target.closest("[data-open]");
    if (button) return drawer(button.dataset.open);
    if (target.closest("[data-close]") || target.classList.contains("sd-shade")) return drawer(null);
    if (target.closest("[data-theme]")) {
      const dark = body().classList.toggle("dark");
      localStorage.setItem("steerdeck-theme", dark ? "dark" : "light");
    }
  });
  document.addEventListener("keydown", (event) => {
    const field = event.target instanceof Element && event.target.closest("input:not([type=range]):not([type=checkbox]), textarea, select, [contenteditable]");
    if (event.key === "/" && !field && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      if (body().dataset.drawer && body().dataset.drawer !== "rack") drawer(null);
      if (window.matchMedia("(max-width: 900px)").matches) body().dataset.drawer = "rack";
      document.querySelector("#search input")?.focus();
    } else if (event.key === "Escape") {
      if (body().dataset.drawer) drawer(null);
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
