// The conversation. props.value is the log of ui/transcript.py: JSON lines that mostly only grow.
const root = element.querySelector(".sd-thread");
const told = element.querySelector(".sd-told");
let log = "";
let home = "";
let replies = new Map();
let begun = 0;
let turn = null; // where the replies of the current turn go

const busy = () => [...replies.values()].some((reply) => !reply.state.ended);
const near = () => root.scrollHeight - root.scrollTop - root.clientHeight < 120;
const reset = () => {
  root.replaceChildren();
  replies = new Map();
  turn = null;
};
const begin = {
  home: () => {},
  user: (line) => {
    replies.forEach((reply) => reply.fold());
    turn = h("div", { class: "sd-turn-replies" });
    root.append(h("div", { class: "sd-exchange" }, h("p", { class: "sd-user" }, line.x), turn));
  },
  reply: (line) => {
    const reply = drawReply(line);
    replies.set(line.r, reply);
    turn.classList.toggle("sd-pair", line.pair);
    if (["half", "more", "double"].includes(line.lane)) turn.classList.add("sd-sweep");
    document.body.classList.remove("sd-changed"); // the rack has not changed since this reply began
    turn.append(reply.node);
  },
  "+": (line) => replies.get(line.r)?.grow(line),
  mark: (line) => replies.get(line.r)?.mark(line),
  end: (line) => {
    replies.get(line.r)?.end(line);
    told.textContent = line.error ? line.error : "The reply is complete.";
  },
};
const take = () => {
  const next = typeof props.value === "string" ? props.value : "";
  const stay = near();
  const all = next.split("\n", 1)[0];
  const started = all ? JSON.parse(all).begun || 0 : 0;
  if (started < begun) return; // a late frame of a conversation that was cleared
  begun = started;
  let rest = next.startsWith(log) ? next.slice(log.length) : null;
  if (rest === null) {
    reset();
    rest = next;
  }
  log = next;
  const touched = new Set();
  let asked = false;
  for (const text of rest.split("\n")) {
    if (!text) continue;
    const line = JSON.parse(text);
    begin[line.k]?.(line);
    asked ||= line.k === "user";
    if (line.r) touched.add(line.r);
  }
  touched.forEach((number) => replies.get(number)?.draw());
  if (replies.size || root.querySelector(".sd-user")) root.querySelector(".sd-home")?.remove();
  else if (all && (all !== home || !root.childElementCount)) root.replaceChildren(drawHome(JSON.parse(all)));
  home = all;
  root.querySelectorAll(".sd-exchange").forEach((node, i, every) => node.classList.toggle("sd-last", i === every.length - 1));
  document.body.classList.toggle("sd-busy", busy());
  const talking = document.body.classList.toggle("sd-talking", replies.size > 0);
  if (talking) sessionStorage.setItem("steerdeck-talked", "yes"); // for toast.js, should the page be loaded anew
  else if (all) sessionStorage.removeItem("steerdeck-talked");
  const talk = root.querySelector(".sd-user"); // the first screen is read from its top
  if (talk && (stay || asked)) root.scrollTop = root.scrollHeight;
};
watch("value", take);
take();
