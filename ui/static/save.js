// The conversation as a file: what thread.js has drawn, its seeds and receipts.
const conversation = () => {
  const told = new Map(); // a reply's number -> its message
  const messages = [];
  const { system } = stored.get("settings") || {};
  if (system) messages.push({ role: "system", content: system });
  const take = {
    user: ({ x }) => messages.push({ role: "user", content: x }),
    reply: ({ r, lane, title, seed }) => {
      told.set(r, { role: "assistant", content: "", lane, title, seed });
      messages.push(told.get(r));
    },
    "+": ({ r, x }) => (told.get(r).content += x),
    end: ({ r, reason, receipt, error }) => Object.assign(told.get(r), { reason, error, receipt: receipt && JSON.parse(receipt) }),
  };
  lines.map((line) => JSON.parse(line)).forEach((line) => take[line.k]?.(line));
  return { model: home && JSON.parse(home).model, saved: new Date().toISOString(), messages };
};
document.addEventListener("steerdeck:save", () => {
  if (!lines.length) return say("There is no conversation to save yet.");
  const address = URL.createObjectURL(new Blob([JSON.stringify(conversation(), null, 2)], { type: "application/json" }));
  h("a", { href: address, download: "conversation.json" }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
});
