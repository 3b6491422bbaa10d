// Request as curl and Python, and the link. props.value: {curl, python, link} (ui/page.py).
const root = element.querySelector(".sd-export");
let tab = "curl";
const link = () => {
  const address = new URL(window.location.href);
  // Until the rack's own link has come, what the page was opened with says the same.
  const query = props.value?.link ?? address.search.slice(1);
  address.search = "";
  address.hash = "";
  return address.href.replace(/\/$/, "/") + (query ? `?${query}` : "");
};
const draw = () => {
  const value = props.value || {};
  const code = h("pre", { tabindex: "0", "aria-label": `Request as ${tab}` }, value[tab] || "");
  const pick = (name, text) => h("button", { type: "button", "aria-pressed": String(tab === name), onclick: () => { tab = name; draw(); } }, text);
  const field = h("input", { type: "text", readonly: true, "aria-label": "Link to this rack", onfocus: (event) => event.target.select() });
  field.value = link();
  root.replaceChildren(
    h("h3", {}, "Link"),
    h("p", {}, "Opens this page with the same rack. It holds no part of the conversation."),
    h("div", { class: "sd-copyrow" }, field, h("button", { type: "button", onclick: (event) => copy(link(), event.target) }, "Copy link")),
    h("h3", {}, "Request"),
    h("p", {}, "The same question to the same rack, from elsewhere."),
    h("div", { class: "sd-copyrow" }, h("div", { class: "sd-ops", role: "group", "aria-label": "Language" }, pick("curl", "curl"), pick("python", "Python")),
      h("button", { type: "button", onclick: (event) => copy(value[tab] || "", event.target) }, "Copy code")),
    code);
};
const take = () => {
  draw();
  // The address follows the rack, so that a reload or a bookmark keeps it.
  if (!props.value || props.value.link === undefined) return;
  const address = new URL(window.location.href);
  for (const name of ["steer", "norm"]) address.searchParams.delete(name);
  const rest = address.searchParams.toString();
  const query = [rest, props.value.link].filter(Boolean).join("&");
  window.history.replaceState(null, "", address.pathname + (query ? `?${query}` : "") + address.hash);
};
document.addEventListener("steerdeck:copy-link", (event) => copy(link(), event.detail));
watch("value", take);
draw();
