// Request as curl and Python, the link, and the conversation (save.js). props.value: {link, curl, python,
// docs} (ui/racking.py); where the rack alone has changed the code is left out, and the link is null
// while that of the address waits.
const root = element.querySelector(".sd-export");
let tab = "curl";
let code = {};
const link = () => {
  const address = new URL(window.location.href);
  // Until the rack's own link has come, what the page was opened with says the same.
  const query = props.value?.link ?? address.search.slice(1);
  address.search = "";
  address.hash = "";
  return address.href.replace(/\/$/, "/") + (query ? `?${query}` : "");
};
// Served beside the API (HERE in ui/page.py) the page alone knows the address both are reached at.
const here = () => (window.location.origin + window.location.pathname.replace(/\/$/, "")).replaceAll("'", "%27");
const placed = (text = "") => text.replace("http://{this-page}", here);
const request = () => placed(code[tab]);
const field = h("input", { type: "text", readonly: true, "aria-label": "Link to this rack", onfocus: (event) => event.target.select() });
const shown = h("pre", { tabindex: "0" });
const docs = h("a", { target: "_blank", rel: "noopener", hidden: true }, "API documentation");
const picks = [["curl", "curl"], ["python", "Python"]].map(([name, text]) => h("button", { type: "button", "data-tab": name, onclick: () => { tab = name; draw(); } }, text));
const draw = () => {
  field.value = link();
  shown.textContent = request();
  docs.hidden = !code.docs;
  if (code.docs) docs.href = placed(code.docs);
  shown.setAttribute("aria-label", `Request as ${tab}`);
  picks.forEach((pick) => pick.setAttribute("aria-pressed", String(pick.dataset.tab === tab)));
};
root.append(
  h("h3", {}, "Link"),
  h("p", {}, "Opens this page with the same rack. It holds no part of the conversation."),
  h("div", { class: "sd-copyrow" }, field, h("button", { type: "button", onclick: (event) => copy(link(), event.target, "Link copied.") }, "Copy link")),
  h("h3", {}, "Request"),
  h("p", {}, "The same question to the same rack, from elsewhere. ", docs),
  h("div", { class: "sd-copyrow" }, h("div", { class: "sd-ops", role: "group", "aria-label": "Language" }, picks),
    h("button", { type: "button", onclick: (event) => copy(request(), event.target) }, "Copy code")),
  shown,
  h("h3", {}, "Conversation"),
  h("p", {}, "All that was said, with seeds and receipts, as a JSON file."),
  h("div", { class: "sd-copyrow" }, h("button", { type: "button", onclick: () => document.dispatchEvent(new CustomEvent("steerdeck:save")) }, "Save conversation")));
const take = () => {
  if (props.value?.curl) code = props.value;
  draw();
  // The address follows the rack, so that a reload or a bookmark keeps it.
  if (typeof props.value?.link !== "string") return;
  const address = new URL(window.location.href);
  for (const name of ["steer", "norm", "preset"]) address.searchParams.delete(name);
  const rest = address.searchParams.toString();
  const query = [rest, props.value.link].filter(Boolean).join("&");
  window.history.replaceState(null, "", address.pathname + (query ? `?${query}` : "") + address.hash);
};
// The code holds the whole conversation: it is made where someone looks, not at every step of a slider.
let seen = "";
const look = () => {
  const { dataset, classList } = document.body;
  const now = dataset.drawer === "export" ? (classList.contains("sd-busy") ? "busy" : "still") : "";
  if (now && now !== seen) trigger("wanted", {});
  seen = now;
};
new MutationObserver(look).observe(document.body, { attributes: true, attributeFilter: ["class", "data-drawer"] });
document.addEventListener("steerdeck:copy-link", (event) => copy(link(), event.detail, "Link copied."));
watch("value", take);
draw();
