// Draws a plan and its explanation from the JSON in the page. Numbers come from there unchanged.
const { plan, explanation, words, timeline } = JSON.parse(document.getElementById("data").textContent);
const root = document.getElementById("page");
const SVG = "http://www.w3.org/2000/svg";
// Okabe and Ito's palette for kinds and causes; cividis, which is ordered, for stages.
const PALETTE = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999"];
const CIVIDIS = [[0, 34, 78], [53, 69, 108], [102, 105, 112], [148, 142, 119], [200, 184, 102], [254, 232, 56]];

const seconds = (s) => {
  for (const [f, u] of [[1, "s"], [1e-3, "ms"], [1e-6, "µs"]]) if (Math.abs(s) >= f) return `${(s / f).toPrecision(4)} ${u}`;
  return s === 0 ? "0 s" : `${(s / 1e-9).toPrecision(3)} ns`;
};
const gib = (b) => `${(b / 2 ** 30).toFixed(1)} GiB`;
const percent = (x) => `${(100 * x).toFixed(1)} %`;
const plain = (x) => (Number.isInteger(x) ? x.toLocaleString("en") : Number(x.toPrecision(4)).toLocaleString("en"));

function stageColour(i) {
  const at = plan.stages.length < 2 ? 1 : (i / (plan.stages.length - 1)) * (CIVIDIS.length - 1);
  const k = Math.min(Math.floor(at), CIVIDIS.length - 2);
  const mix = CIVIDIS[k].map((c, j) => Math.round(c + (at - k) * (CIVIDIS[k + 1][j] - c)));
  return `rgb(${mix.join(",")})`;
}

// -- small builders ---------------------------------------------------------------------------

function add(parent, name, attributes = {}, text = "") {
  const inSvg = name === "svg" || parent.namespaceURI === SVG;
  const made = inSvg ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== "") made.textContent = text;
  return parent.appendChild(made);
}
const box = (parent, x, y, width, height, fill, title, more = {}) => {
  const made = add(parent, "rect", { x, y, width: Math.max(0, width), height, fill, ...more });
  if (title) add(made, "title", {}, title);
  return made;
};
function section(title, wide = false) {
  const made = add(root, "section", wide ? { class: "wide" } : {});
  add(made, "h2", {}, title);
  return made;
}
function legend(parent, entries) {
  const list = add(parent, "div", { class: "legend" });
  for (const [name, colour] of entries) {
    const item = add(list, "span");
    add(item, "i", { style: `background:${colour}` });
    item.append(name);
  }
}
function table(parent, columns, rows, numbers = []) {
  const made = add(parent, "table");
  const head = add(add(made, "thead"), "tr");
  columns.forEach((c, k) => add(head, "th", numbers.includes(k) ? { class: "n", scope: "col" } : { scope: "col" }, c));
  const body = add(made, "tbody");
  for (const row of rows) {
    const line = add(body, "tr");
    row.forEach((cell, k) => add(line, "td", numbers.includes(k) ? { class: "n" } : {}, String(cell)));
  }
}

// -- selection: one stage in every view ---------------------------------------------------------

let pinned = -1;
function pick(stage) {
  root.classList.toggle("picked", stage >= 0);
  for (const part of root.querySelectorAll("[data-stage]")) part.classList.toggle("on", part.dataset.stage === String(stage));
}
root.addEventListener("pointerover", (event) => {
  const part = event.target.closest("[data-stage]");
  pick(part ? Number(part.dataset.stage) : pinned);
});
root.addEventListener("pointerleave", () => pick(pinned));

// -- views ----------------------------------------------------------------------------------------

function heading() {
  const top = add(root, "header");
  add(top, "h1", {}, `${plan.model.name} on ${plan.cluster.name}`);
  explanation.summary.split("\n").forEach((line, k) => add(top, "p", k === 0 && explanation.edited ? { class: "warn" } : {}, line));
  const d = plan.degrees;
  const decisions = [
    ["tp", d.tp], ["cp", d.cp], ["pp", d.pp], ["dp", d.dp], ["ep", d.ep], ["chunks a stage", d.virtual_stages],
    ["ZeRO", plan.zero_stage], ["micro-batch", plan.micro_batch], ["micro-batches", plan.num_microbatches],
  ].map(([name, value]) => `${name} ${value}`);
  add(top, "p", { class: "faint" }, `${decisions.join(" · ")} · ${plan.schedule} · ${plan.num_devices} devices, ${plan.idle_devices} idle`);
  const c = plan.certificate;
  add(top, "p", { class: "faint" }, c
    ? `Certificate: ${c.objective} ${plain(c.value)}, proven bound ${plain(c.bound)}, ${plain(c.configurations)} configurations.`
    : "No certificate: these decisions were written, not searched for.");
  const list = add(top, "div", { class: "stages", role: "group", "aria-label": "stages" });
  plan.stages.forEach((stage, i) => {
    const button = add(list, "button", { "data-stage": i, "aria-pressed": "false", type: "button" });
    add(button, "i", { style: `background:${stageColour(i)}` });
    button.append(`stage ${stage.index}`);
    button.addEventListener("focus", () => pick(i));
    button.addEventListener("blur", () => pick(pinned));
    button.addEventListener("click", () => {
      pinned = pinned === i ? -1 : i;
      for (const other of list.children) other.setAttribute("aria-pressed", String(other.dataset.stage === String(pinned)));
      pick(pinned);
    });
  });
}

function topology() {
  const where = section("Devices, coloured by stage");
  const groups = plan.cluster.nodes;
  const total = groups.reduce((sum, g) => sum + g.count * g.devices, 0);
  const stageOf = new Array(total).fill(-1);
  plan.stages.forEach((stage, i) => stage.devices.forEach(([a, b]) => stageOf.fill(i, a, b)));
  const size = total > 1024 ? 5 : total > 256 ? 8 : 14;
  const drawing = add(where, "svg", { role: "img", "aria-label": "devices of the cluster by stage" });
  let x = 0, y = 0, next = 0;
  const width = 580;
  for (const group of groups) for (let node = 0; node < group.count; node += 1) {
    const wide = Math.min(group.devices, 4) * size, high = Math.ceil(group.devices / 4) * size;
    if (x + wide > width) { x = 0; y += high + size; }
    for (let k = 0; k < group.devices; k += 1, next += 1) {
      const stage = stageOf[next];
      box(drawing, x + (k % 4) * size, y + Math.floor(k / 4) * size, size - 1, size - 1, stage < 0 ? "#fff" : stageColour(stage),
        `device ${next}: ${stage < 0 ? "idle" : `stage ${stage}`}`, stage < 0 ? { stroke: "#bbb" } : { "data-stage": stage });
    }
    x += wide + size;
  }
  drawing.setAttribute("viewBox", `0 0 ${width} ${y + 4 * size}`);
  const g = groups[0];
  add(where, "p", { class: "faint" }, `${g.devices} devices a node; inside a node ${plain(g.node_link.bandwidth_bytes_per_s / 1e9)} GB/s, between nodes `
    + `${plain(g.network.bandwidth_bytes_per_s / 1e9)} GB/s a device and direction.`);
}

function memory() {
  const where = section("Memory of the fullest device of each stage");
  const kinds = Object.keys(explanation.memory[0].kinds);
  legend(where, [...kinds.map((kind, k) => [kind, PALETTE[k % PALETTE.length]]), ["| capacity", "#1b1b1b"]]);
  const rows = explanation.memory, row = rows.length > 24 ? 9 : 22, left = 62, right = 500;
  const most = Math.max(...rows.map((m) => Math.max(m.capacity_bytes, m.total_bytes)));
  const scale = (right - left) / most;
  const drawing = add(where, "svg", { viewBox: `0 0 580 ${rows.length * row + 22}`, role: "img", "aria-label": "memory by stage and kind" });
  rows.forEach((m, i) => {
    const line = add(drawing, "g", { "data-stage": i });
    if (row > 12 || i % 8 === 0) add(line, "text", { x: 0, y: i * row + 15 }, `stage ${m.stage}`);
    let x = left;
    kinds.forEach((kind, k) => {
      const width = m.kinds[kind] * scale;
      box(line, x, i * row + 2, width, row - 4, PALETTE[k % PALETTE.length], `stage ${m.stage}, ${kind}: ${gib(m.kinds[kind])}`);
      x += width;
    });
    box(line, left + m.capacity_bytes * scale - 1, i * row, 2, row, "#1b1b1b", `capacity ${gib(m.capacity_bytes)}`);
    if (row > 12 || i % 8 === 0) add(line, "text", { x: right + 8, y: i * row + 15, class: m.free_bytes < 0 ? "" : "faint" }, gib(m.total_bytes) + (m.binds ? " binds" : ""));
  });
  const ticks = Math.floor(most / 2 ** 30 / 20);
  for (let t = 0; t <= ticks; t += 1)
    add(drawing, "text", { x: left + t * 20 * 2 ** 30 * scale, y: rows.length * row + 16, class: "faint", "text-anchor": "middle" }, `${t * 20} GiB`);
}

const KINDS = { forward: "#56b4e9", backward: "#e69f00", weight: "#009e73", steady: "#bdbdbd" };
function steps() {
  const where = section(`One step: passes of each stage (${seconds(explanation.step_time_s)} across)`, true);
  const present = new Set(timeline.stages.flatMap((s) => s.passes.map((p) => p[0])));
  const names = { weight: "weight gradient", steady: "steady state, not drawn pass by pass" };
  legend(where, [...Object.entries(KINDS).filter(([kind]) => present.has(kind)).map(([kind, c]) => [names[kind] ?? kind, c]),
    ["gradient reduction, optimizer, weight gathering", "#cc79a7"], ["input and fixed overhead", "#999999"]]);
  const rows = timeline.stages, row = rows.length > 24 ? 12 : 22, left = 62, width = 1130;
  const drawing = add(where, "svg", { viewBox: `0 0 1200 ${rows.length * row + 20}`, role: "img", "aria-label": "timeline of the step by stage" });
  rows.forEach((stage, i) => {
    const line = add(drawing, "g", { "data-stage": i });
    if (row > 12 || i % 4 === 0) add(line, "text", { x: 0, y: i * row + row - 6 }, `stage ${i}`);
    const y = i * row + 1, high = row - 2;
    const paths = {};
    for (const [kind, , , start, end] of stage.passes) {
      // A hair's breadth between passes, where there is room for it.
      const x = left + start * width, wide = Math.max(0.05, (end - start) * width - ((end - start) * width > 3 ? 0.6 : 0));
      (paths[kind] ??= []).push(`M${x.toFixed(2)} ${y}h${wide.toFixed(2)}v${high}h${(-wide).toFixed(2)}z`);
    }
    for (const [kind, parts] of Object.entries(paths)) {
      const made = add(line, "path", { d: parts.join(""), fill: KINDS[kind] });
      const held = plan.stages[i], each = { forward: held.forward_s, backward: held.backward_s }[kind];
      add(made, "title", {}, `stage ${i}, ${kind}${each === undefined ? "" : `: ${seconds(each)} a micro-batch${kind === "backward" ? ", weight gradient and recomputation included" : ""}`}`);
    }
    const [a, b] = stage.tail;
    box(line, left + a * width, y, (b - a) * width, high, "#cc79a7", `stage ${i}: after the last pass`);
  });
  const [a, b] = timeline.fixed;
  box(drawing, left + a * width, 0, (b - a) * width, rows.length * row, "#999999", "input and fixed overhead");
  for (let t = 0; t <= 4; t += 1)
    add(drawing, "text", { x: left + (t / 4) * width, y: rows.length * row + 16, class: "faint", "text-anchor": t === 4 ? "end" : t ? "middle" : "start" },
      t === 4 ? seconds(explanation.step_time_s) : `${25 * t} %`);
}

function times() {
  const where = section(`Where the time goes (stage ${explanation.last_stage} ends last)`);
  legend(where, [["adds to the step", "#0072b2"], ["hidden behind computation", "#cfe3f1"]]);
  const parts = explanation.parts.filter((p) => p.share >= 0.0005 || p.hidden_s > 0.0005 * explanation.step_time_s);
  const most = Math.max(...parts.map((p) => p.time_s + (p.hidden_s ?? 0)));
  const left = 218, right = 440, row = 22;
  const drawing = add(where, "svg", { viewBox: `0 0 580 ${parts.length * row + 4}`, role: "img", "aria-label": "time by part" });
  parts.forEach((p, i) => {
    const y = i * row, scale = (right - left) / most;
    add(drawing, "text", { x: 0, y: y + 15 }, words[p.name] ?? p.name);
    box(drawing, left, y + 3, p.time_s * scale, row - 6, "#0072b2", `${words[p.name] ?? p.name}: ${seconds(p.time_s)}`);
    if (p.hidden_s) box(drawing, left + p.time_s * scale, y + 3, p.hidden_s * scale, row - 6, "#cfe3f1", `hidden: ${seconds(p.hidden_s)}`);
    add(drawing, "text", { x: 580, y: y + 15, "text-anchor": "end" }, `${seconds(p.time_s)}  ${percent(p.share)}`);
  });
}

function figures() {
  const where = section("Figures (estimated)");
  const f = explanation.figures;
  const quoted = (q) => (q.source ? `${q.source}, ${q.date}` : "");
  const rows = [
    ["step", seconds(explanation.step_time_s), ""],
    ["MFU, causal attention counted half", percent(f.mfu_causal), ""],
    ["MFU, attention as the full square", percent(f.mfu_square), ""],
    ["HFU, recomputation counted", percent(f.hfu_causal), ""],
    ["tokens/s", plain(f.tokens_per_s), ""],
    ["tokens/s a device", plain(f.tokens_per_s_per_device), ""],
  ];
  if (f.usd_per_trillion_tokens !== null)
    rows.push(["USD a trillion tokens", plain(f.usd_per_trillion_tokens), `${plain(f.device_price_usd_per_h.value)} USD a device-hour: ${quoted(f.device_price_usd_per_h)}`]);
  rows.push(["MWh a trillion tokens", plain(f.energy_j_per_trillion_tokens / 3.6e9), `${percent(f.power_share)} of ${plain(f.device_power_w.value)} W: ${quoted(f.device_power_w)}`]);
  table(where, ["figure", "value", "source"], rows, [1]);
}

function more() {
  const where = section("What a little more would bring, seconds a step", true);
  const dash = (x, say) => (x === null ? "–" : say(x));
  table(where, ["change", "kept", "gain", "a unit", "planned again", "a unit then"], explanation.marginals.map((m) => [
    m.change, m.kept, dash(m.gain_s, seconds), dash(m.gain_per_unit_s, (x) => `${seconds(x)}/${m.unit}`),
    dash(m.replanned_gain_s, seconds), dash(m.replanned_gain_per_unit_s, (x) => `${seconds(x)}/${m.unit}`),
  ]), [2, 3, 4, 5]);
}

function turns() {
  if (!explanation.turns?.length) return;
  const where = section("How far the choice holds", true);
  table(where, ["input", "now", "holds to", "changes at", "what is then better"], explanation.turns.map((t) => [
    `${t.quantity}, ${t.direction}`, `${plain(t.now)} ${t.unit}`, plain(t.holds_at), t.changes_at === null ? "–" : plain(t.changes_at),
    [t.why, t.decisions.map((d) => `${d.name} ${d.first} → ${d.second}`).join(", "), t.gain === null ? "" : `${percent(t.gain)} faster`].filter(Boolean).join("; "),
  ]), [1, 2, 3]);
}

function rivals() {
  if (!explanation.rivals.length) return;
  const where = section("Next best, and why each loses", true);
  table(where, ["step", "devices", "plan", "why"], explanation.rivals.map((r) => [
    seconds(r.step_time_s), r.num_devices, Object.entries(r.degrees).filter(([, v]) => v > 1).map(([k, v]) => `${k} ${v}`).join(" "), r.reason,
  ]), [0, 1]);
}

for (const draw of [heading, topology, memory, steps, times, figures, more, turns, rivals]) draw();
