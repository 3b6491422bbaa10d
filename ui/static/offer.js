// “Answer again as I steer” is off at first. It is offered once in a browser, in a line by the reply, when a
// slider first moves after one.
const OFFERED = "steerdeck-offered";
const offer = () => {
  const box = document.querySelector("#follow input");
  const last = document.querySelector(".sd-exchange.sd-last");
  if (!box || box.checked || localStorage.getItem(OFFERED)) return;
  if (!last?.querySelector(".sd-reply") || last.querySelector("[aria-busy]")) return;
  localStorage.setItem(OFFERED, "yes");
  const accept = () => {
    line.remove();
    if (!box.checked) box.click();
    settle();
  };
  const line = h("p", { class: "sd-offer", role: "status" }, h("span", {}, "Shall it answer again as you steer?"),
    h("button", { type: "button", onclick: accept }, "Yes"),
    h("button", { type: "button", class: "sd-close", "aria-label": "No, and do not ask again", onclick: () => line.remove() }, "×"));
  last.append(line);
  line.scrollIntoView({ block: "nearest" });
};
